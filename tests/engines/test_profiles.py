"""Profiles follow the contracts, stay within the bundle, and say which axes are constant."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doubles.graphs import SCHEDULER
from doubles.small import DIMS
from instantrt.bundle import Manifest, PictureSizes
from instantrt.contracts import network_contracts
from instantrt.errors import RequestError
from instantrt_engines.options import BuildOptionError
from instantrt_engines.profiles import ShapeOptions, check_within, input_shapes, profiles_for, static_symbols

CONTRACTS = network_contracts(DIMS)
MANIFEST = Manifest(
    dims=DIMS,
    precision="fp16",
    sizes=PictureSizes((128, 128), (64, 64), (256, 192)),
    slots=(1, 4),
    guidance_batch=(1, 2),
    scheduler=SCHEDULER,
    force_zeros_for_empty_prompt=True,
    networks={name: f"onnx/{name}.onnx" for name in CONTRACTS},
    made_by={},
)


def test_by_default_everything_of_the_loop_is_static_and_each_guidance_half_has_a_profile() -> None:
    one = {"B": (1, 1, 1), "H": (128, 128, 128), "W": (128, 128, 128)}
    expected = ({**one, "G": (1, 1, 1)}, {**one, "G": (2, 2, 2)})
    for name in ("unet", "identitynet"):
        assert profiles_for(CONTRACTS[name], ShapeOptions(), MANIFEST) == expected
    assert static_symbols(expected) == {"B": 1, "H": 128, "W": 128}
    assert profiles_for(CONTRACTS["vae_decoder"], ShapeOptions(), MANIFEST) == (one,)


def test_conditioning_has_the_ranges_that_a_request_needs() -> None:
    assert profiles_for(CONTRACTS["face_detector"], ShapeOptions(), MANIFEST) == ({},)
    assert profiles_for(CONTRACTS["face_encoder"], ShapeOptions(), MANIFEST) == ({"n": (1, 1, 4)},)
    assert profiles_for(CONTRACTS["text_encoder"], ShapeOptions(), MANIFEST) == ({"R": (1, 2, 2)},)
    time = profiles_for(CONTRACTS["time_embedding"], ShapeOptions(), MANIFEST)
    assert time == ({"T": (1, 30, 199), "G": (1, 1, 1)}, {"T": (1, 30, 199), "G": (2, 2, 2)})


def test_several_sizes_are_static_profiles_or_one_range() -> None:
    sizes = ((128, 128), (256, 64), (128, 128))
    each = profiles_for(CONTRACTS["vae_decoder"], ShapeOptions(sizes=sizes), MANIFEST)
    assert [(p["W"][1], p["H"][1]) for p in each] == [(128, 128), (256, 64)]
    assert static_symbols(each) == {"B": 1}
    (spanning,) = profiles_for(CONTRACTS["vae_decoder"], ShapeOptions(sizes=sizes, size_profiles="range"), MANIFEST)
    assert spanning == {"B": (1, 1, 1), "W": (128, 128, 256), "H": (64, 128, 128)}


def test_several_slots_are_one_range_or_static_profiles_each_with_its_guidance_batch() -> None:
    options = ShapeOptions(slots=(1, 1, 3), slot_profiles="each")
    profiles = profiles_for(CONTRACTS["unet"], options, MANIFEST)
    assert [(p["B"], p["G"]) for p in profiles] == [((b,) * 3, (g,) * 3) for b in (1, 2, 3) for g in (1, 2)]
    for contract in CONTRACTS.values():
        if contract.stage == "conditioning":
            assert profiles_for(contract, options, MANIFEST) == profiles_for(contract, ShapeOptions(), MANIFEST)
    assert [p["B"] for p in profiles_for(CONTRACTS["vae_decoder"], options, MANIFEST)] == [(b,) * 3 for b in (1, 2, 3)]


def test_one_half_and_a_batch_range() -> None:
    (profile,) = profiles_for(CONTRACTS["unet"], ShapeOptions(slots=(1, 2, 4), guidance_batch=(2,)), MANIFEST)
    assert profile["B"] == (1, 2, 4)
    latents = CONTRACTS["unet"].input("latents")
    assert input_shapes(latents, profile) == ((1, 4, 16, 16), (2, 4, 16, 16), (4, 4, 16, 16))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ShapeOptions(slots=(1, 1, 8)), "slots 1 to 8: outside"),
        (ShapeOptions(slots=(5, 5, 5)), "accept 1 to 4"),
    ],
)
def test_a_profile_outside_the_bundle_says_what_it_was_exported_for(options: ShapeOptions, message: str) -> None:
    with pytest.raises(BuildOptionError, match=message):
        profiles_for(CONTRACTS["unet"], options, MANIFEST)


def test_a_bundle_with_one_half_has_no_profile_for_two() -> None:
    with pytest.raises(BuildOptionError, match="guidance batch 1 to 2: outside"):
        check_within(ShapeOptions(), replace(MANIFEST, guidance_batch=(2, 2)))


@pytest.mark.parametrize("size", [(512, 512), (128, 256), (100, 128)])
def test_a_size_outside_the_bundle_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(RequestError, match=f"{size[0]}x{size[1]}"):
        profiles_for(CONTRACTS["vae_decoder"], ShapeOptions(sizes=(size,)), MANIFEST)


def test_conditioning_networks_see_one_picture_however_many_slots_are_denoised() -> None:
    options = ShapeOptions(slots=(2, 2, 2))
    for contract in CONTRACTS.values():
        for profile in profiles_for(contract, options, MANIFEST):
            if "B" in profile:
                assert profile["B"] == ((1, 1, 1) if contract.stage == "conditioning" else (2, 2, 2))


@pytest.mark.parametrize("slots", [(0, 1, 1), (2, 1, 4), (1, 5, 4)])
def test_a_batch_is_in_order(slots: tuple[int, int, int]) -> None:
    with pytest.raises(BuildOptionError, match="MIN:OPT:MAX"):
        ShapeOptions(slots=slots)


@pytest.mark.parametrize("guidance_batch", [(), (3,), (0, 1)])
def test_there_are_one_or_two_guidance_rows(guidance_batch: tuple[int, ...]) -> None:
    with pytest.raises(BuildOptionError, match="guidance batch"):
        ShapeOptions(guidance_batch=guidance_batch)


@settings(deadline=None)
@given(
    slots=st.lists(st.integers(1, 4), min_size=3, max_size=3).map(sorted),
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), max_size=4),
    mode=st.sampled_from(["each", "range"]),
    guidance_batch=st.sampled_from([(1,), (2,), (1, 2)]),
)
def test_every_profile_is_ordered_and_divisible(slots, sizes, mode, guidance_batch) -> None:
    pixels = tuple((64 * w, 64 * h) for w, h in sizes)
    options = ShapeOptions(tuple(slots), pixels, mode, guidance_batch)
    for contract in CONTRACTS.values():
        for profile in profiles_for(contract, options, MANIFEST):
            assert set(profile) == set(contract.symbols)
            for spec in contract.inputs:
                low, best, high = input_shapes(spec, profile)
                assert all(a <= b <= c for a, b, c in zip(low, best, high, strict=True))
