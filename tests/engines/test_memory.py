"""Adding up device memory, and the least staging that fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doubles.small import DIMS
from instantrt.contracts import loop_buffer, network_contracts
from instantrt_engines.memory import RESERVE_BYTES, DeviceMemory, NetworkMemory, buffer_bytes, device_memory, fit_into

GB = 10**9
CONTRACTS = tuple(network_contracts(DIMS).values())
SYMBOLS = {"B": 1, "G": 2, "H": 128, "W": 128, "R": 2, "T": 199, "n": 1}

# About what SDXL needs in fp16: text 1.6, unet and identitynet 5.8 + 2.5, VAE 0.2.
SDXL = DeviceMemory(
    {"conditioning": 2 * GB, "denoise": 8 * GB, "decode": GB // 5}, arena_bytes=GB // 3, buffer_bytes=10**7
)


def test_weights_add_up_and_the_arena_is_the_largest() -> None:
    networks = [
        NetworkMemory("conditioning", 5, 100),
        NetworkMemory("denoise", 7, 300),
        NetworkMemory("denoise", 11, 200),
    ]
    memory = device_memory(networks, CONTRACTS, SYMBOLS, "fp16")
    assert memory.weights == {"conditioning": 5, "denoise": 18, "decode": 0}
    assert memory.arena_bytes == 300
    assert memory.total_bytes == 23 + 300 + memory.buffer_bytes + RESERVE_BYTES


def test_the_loop_shares_buffers_by_name_except_each_networks_own() -> None:
    loop = [c for c in CONTRACTS if c.stage == "denoise"]
    tensors = {loop_buffer(c.name, s.name): s for c in loop for s in (*c.inputs, *c.outputs)}
    assert buffer_bytes(loop, SYMBOLS, "fp16") == sum(s.size_bytes(SYMBOLS, "fp16") for s in tensors.values())
    assert len(tensors) < sum(len(c.inputs) + len(c.outputs) for c in loop)
    alone = [sum(s.size_bytes(SYMBOLS, "fp16") for s in (*c.inputs, *c.outputs)) for c in loop]
    assert [buffer_bytes([c], SYMBOLS, "fp16") for c in loop] == alone
    assert buffer_bytes(loop, SYMBOLS | {"B": 2}, "fp16") > buffer_bytes(loop, SYMBOLS, "fp16")


@pytest.mark.parametrize(
    ("vram", "streamable", "staging"),
    [
        (24 * GB, False, "resident"),
        (10 * GB, False, "staged"),
        (10 * GB, True, "staged"),
        (8 * GB, False, "none"),
        (8 * GB, True, "streaming"),
        (2 * GB, True, "none"),
    ],
)
def test_the_least_staging_that_fits_is_chosen(vram: int, streamable: bool, staging: str) -> None:
    fit = fit_into(SDXL, vram, streamable=streamable)
    assert fit.staging == staging
    assert (fit.weight_budget_bytes is not None) == (staging == "streaming")
    if staging != "none":
        assert fit.needed_bytes <= vram


def test_the_streaming_budget_is_what_the_rest_leaves() -> None:
    fit = fit_into(SDXL, 8 * GB, streamable=True)
    assert fit.weight_budget_bytes == 8 * GB - SDXL.shared_bytes
    assert fit.weight_budget_bytes < SDXL.weights["denoise"]


@settings(deadline=None)
@given(
    weights=st.tuples(*[st.integers(0, 10 * GB)] * 3),
    arena=st.integers(0, GB),
    vram=st.integers(0, 40 * GB),
    more=st.integers(0, 10 * GB),
)
def test_more_memory_never_fits_worse(weights, arena: int, vram: int, more: int) -> None:
    memory = DeviceMemory(dict(zip(("conditioning", "denoise", "decode"), weights, strict=True)), arena, 0)
    order = ["none", "streaming", "staged", "resident"]
    less, enough = (fit_into(memory, v, streamable=True).staging for v in (vram, vram + more))
    assert order.index(less) <= order.index(enough)


def test_two_slots_need_more_than_one() -> None:
    one = device_memory([NetworkMemory("denoise", 1, 1)], CONTRACTS, SYMBOLS, "fp16")
    two = device_memory([NetworkMemory("denoise", 1, 1)], CONTRACTS, SYMBOLS | {"B": 2}, "fp16")
    assert two.total_bytes > one.total_bytes
    assert replace(two, buffer_bytes=one.buffer_bytes) == one
