"""Adding up device memory as the runtime keeps it, and whether it fits."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from hypothesis import given, settings
from hypothesis import strategies as st

from doubles.small import DIMS
from instantrt.contracts import loop_buffer, network_contracts
from instantrt.denoise import MAX_LOOPS
from instantrt.memory import (
    RESERVE_BYTES,
    DeviceMemory,
    NetworkMemory,
    call_bytes,
    device_memory,
    kept_bytes,
    loop_bytes,
)
from instantrt.network import MAX_SHAPES
from instantrt.plan import Profile

GB = 10**9
CONTRACTS = network_contracts(DIMS)
LOOP = [c for c in CONTRACTS.values() if c.stage == "denoise"]
SHAPE = {"B": 1, "G": 2, "H": 128, "W": 128}

# About what SDXL needs in fp16: text 1.6, unet and identitynet 5.8 + 2.5, VAE 0.2.
SDXL = DeviceMemory(
    {"conditioning": 2 * GB, "denoise": 8 * GB, "decode": GB // 5},
    {"conditioning": GB // 20, "denoise": GB // 3, "decode": GB},
    one_shape_bytes=GB // 4,
    kept_bytes=GB,
)


def networks(*profiles: Profile, only: str | None = None) -> list[NetworkMemory]:
    """All networks or one, whose plans accept these; free sizes that a profile does not name are 1."""
    return [
        NetworkMemory(c, tuple({s: p.get(s, (1, 1, 1)) for s in c.symbols} for p in profiles), 1, 1)
        for c in CONTRACTS.values()
        if only in (None, c.name)
    ]


def profile(slots: int = 1, guidance_batch: int = 2, most_px: int = 128, least_px: int = 128) -> Profile:
    side = (least_px, least_px, most_px)
    return {"B": (1, 1, slots), "G": (guidance_batch,) * 3, "H": side, "W": side}


def test_weights_add_up_and_activations_are_the_largest() -> None:
    by_name = {n.contract.name: n for n in networks(profile())}
    shares = [
        replace(by_name["text_encoder"], weight_bytes=5, activation_bytes=100),
        replace(by_name["identitynet"], weight_bytes=7, activation_bytes=300),
        replace(by_name["unet"], weight_bytes=11, activation_bytes=200),
    ]
    memory = device_memory(shares, SHAPE, "fp16")
    assert memory.weights == {"conditioning": 5, "denoise": 18, "decode": 0}
    assert memory.activations == {"conditioning": 100, "denoise": 300, "decode": 0}
    assert memory.arena_bytes == 300
    beside = memory.kept_bytes + RESERVE_BYTES
    assert memory.needed_bytes("resident") == 23 + 300 + beside
    assert memory.needed_bytes("staged") == 18 + 300 + beside
    assert not memory.has("streaming")


def test_the_loops_networks_share_buffers_except_each_networks_own() -> None:
    tensors = {loop_buffer(c.name, s.name): s for c in LOOP for s in (*c.inputs, *c.outputs)}
    assert loop_bytes(LOOP, "fp16", SHAPE) == sum(s.size_bytes(SHAPE, "fp16") for s in tensors.values())
    assert len(tensors) < sum(len(c.inputs) + len(c.outputs) for c in LOOP)
    alone = [sum(s.size_bytes(SHAPE, "fp16") for s in (*c.inputs, *c.outputs)) for c in LOOP]
    assert [loop_bytes([c], "fp16", SHAPE) for c in LOOP] == alone
    assert loop_bytes(LOOP, "fp16", SHAPE | {"B": 2}) > loop_bytes(LOOP, "fp16", SHAPE)


def test_the_vae_reads_the_loops_latents_where_they_are() -> None:
    vae = CONTRACTS["vae_decoder"]
    assert call_bytes(vae, "fp16", SHAPE) == sum(spec.size_bytes(SHAPE, "fp16") for spec in vae.outputs)


def test_one_static_plan_keeps_one_shape() -> None:
    memory = device_memory(networks(profile()), SHAPE, "fp16")
    assert memory.kept_bytes == memory.one_shape_bytes
    assert memory.needed_bytes("resident") == memory.one_shape_needed_bytes("resident")


def test_of_many_shapes_the_largest_are_counted_as_often_as_the_runtime_keeps_them() -> None:
    loop = [n for n in networks(profile(slots=4, guidance_batch=1), profile(slots=4)) if n.contract in LOOP]
    sizes = [loop_bytes(LOOP, "fp16", SHAPE | {"B": b, "G": g}) for b, g in product((1, 2, 3, 4), (1, 2))]
    assert kept_bytes(loop, "fp16") == sum(sorted(sizes)[-MAX_LOOPS:])
    assert kept_bytes(loop, "fp16", SHAPE) == loop_bytes(LOOP, "fp16", SHAPE)


def test_the_largest_shapes_of_a_range_are_found_without_trying_all() -> None:
    contract = CONTRACTS["vae_decoder"]
    ranged = networks(profile(slots=4, least_px=64, most_px=1024), only=contract.name)
    sides = range(64, 1024 + 1, 64)
    sizes = [call_bytes(contract, "fp16", {"B": b, "H": h, "W": w}) for b, h, w in product((1, 2, 3, 4), sides, sides)]
    assert kept_bytes(ranged, "fp16") == sum(sorted(sizes)[-MAX_SHAPES:])


def test_a_loop_shape_must_be_accepted_by_both_networks() -> None:
    by_name = {n.contract.name: n for n in networks(profile(slots=4)) if n.contract in LOOP}
    narrow = replace(by_name["unet"], profiles=networks(profile(slots=2), only="unet")[0].profiles)
    sizes = [loop_bytes(LOOP, "fp16", SHAPE | {"B": b}) for b in (1, 2)]
    assert kept_bytes([by_name["identitynet"], narrow], "fp16") == sum(sizes)
    elsewhere = replace(narrow, profiles=networks(profile(guidance_batch=1), only="unet")[0].profiles)
    assert kept_bytes([by_name["identitynet"], elsewhere], "fp16") == 0


def test_conditioning_takes_pictures_one_by_one() -> None:
    one, four = (kept_bytes(networks(profile(slots=n), only="control_embedding"), "fp16") for n in (1, 4))
    assert one == four == call_bytes(CONTRACTS["control_embedding"], "fp16", SHAPE)


def test_two_slots_need_more_than_one() -> None:
    ranged = networks(profile(slots=2))
    one, two = (device_memory(ranged, SHAPE | {"B": b}, "fp16") for b in (1, 2))
    assert two.one_shape_needed_bytes("staged") > one.one_shape_needed_bytes("staged")
    assert replace(two, one_shape_bytes=one.one_shape_bytes) == one


def test_staged_weights_need_the_largest_stage_with_its_own_activations() -> None:
    decode_is_largest = replace(SDXL, activations={**SDXL.activations, "decode": 9 * GB})
    beside = SDXL.kept_bytes + RESERVE_BYTES
    assert SDXL.needed_bytes("staged") == 8 * GB + GB // 3 + beside
    assert decode_is_largest.needed_bytes("staged") == GB // 5 + 9 * GB + beside
    for memory in (SDXL, decode_is_largest):
        assert memory.needed_bytes("staged") <= memory.needed_bytes("resident")
        assert memory.needed_bytes("resident") - memory.one_shape_needed_bytes("resident") == 3 * GB // 4


def test_streaming_needs_plans_for_it_and_room_for_all_else() -> None:
    streams = replace(SDXL, streamable=(6 * GB, 2 * GB))
    assert streams.has("streaming")
    assert not SDXL.has("streaming")
    assert streams.needed_bytes("streaming") == SDXL.needed_bytes("resident") - 8 * GB
    needed = streams.needed_bytes("resident")
    for lacking, budget in ((GB, 5 * GB), (7 * GB, GB // 2), (8 * GB, 0), (8 * GB + 1, None), (0, 6 * GB)):
        assert streams.weight_budget_bytes(needed - lacking) == budget
    assert SDXL.weight_budget_bytes(needed) is None


@settings(deadline=None)
@given(streamable=st.lists(st.integers(1, 10 * GB), min_size=1, max_size=4), lacking=st.integers(1, 20 * GB))
def test_a_budget_is_the_largest_with_which_it_fits(streamable: list[int], lacking: int) -> None:
    memory = replace(SDXL, streamable=tuple(streamable))
    vram = memory.needed_bytes("resident") - lacking
    budget = memory.weight_budget_bytes(vram)

    def needed(each: int) -> int:
        return memory.needed_bytes("streaming") + sum(min(each, weights) for weights in streamable)

    if budget is None:
        assert needed(0) > vram
    else:
        assert needed(budget) <= vram < needed(budget + 1)
