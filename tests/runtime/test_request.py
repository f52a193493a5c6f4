"""Requests are checked before any work is done."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instantrt.conditioning.styles import NO_STYLE, STYLES, apply_style
from instantrt.errors import RequestError
from instantrt.request import RANGES, SAMPLER_NAMES, WHOLE_NUMBERS, GenerateRequest
from instantrt.samplers import SAMPLERS


def request(**fields: Any) -> GenerateRequest:
    return GenerateRequest(**{"face": "photo.jpg", "prompt": "a person", **fields})


def test_defaults_are_those_of_the_http_api() -> None:
    made = request()
    assert (made.samples, made.steps, made.guidance_scale, made.seed) == (1, 10, 5.0, -1)
    assert (made.identity_strength, made.adapter_strength, made.enhance_face_region) == (0.8, 0.8, True)


ENDS = [  # of the HTTP API's page; diffusers' for the window
    ("samples", 1, 4, 1),
    ("steps", 4, 100, 1),
    ("guidance_scale", 1, 25, 1e-6),
    ("seed", -1, 999_999_999_999_999, 1),
    ("identity_strength", 0, 1, 1e-6),
    ("adapter_strength", 0, 1, 1e-6),
    ("control_guidance_start", 0, None, 1e-6),
    ("control_guidance_end", None, 1, 1e-6),
]


@pytest.mark.parametrize(("name", "low", "high", "beyond"), ENDS)
def test_both_ends_of_a_range_are_allowed_and_what_lies_outside_is_not(
    name: str, low: float | None, high: float | None, beyond: float
) -> None:
    for end, outside in ((low, -beyond), (high, beyond)):
        if end is not None:
            request(**{name: end})
            with pytest.raises(RequestError, match=f"{name} must be from"):
                request(**{name: end + outside})


def test_every_range_has_its_ends_tested() -> None:
    assert {name for name, *_ in ENDS} == set(RANGES)


@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (0.8, 0.2), (1, 1), (0, 0)])
def test_identitynet_stops_after_it_starts(start: float, end: float) -> None:
    with pytest.raises(RequestError, match="must be below control_guidance_end"):
        request(control_guidance_start=start, control_guidance_end=end)


def test_guidance_above_1_makes_a_batch_of_two() -> None:
    assert request(guidance_scale=1).guidance_batch == 1
    assert request(guidance_scale=1.01).guidance_batch == 2


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize("value", ["4", None, True, math.nan, math.inf])
def test_a_number_must_be_a_finite_number(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"{name} must be a"):
        request(**{name: value})


@pytest.mark.parametrize("name", sorted(WHOLE_NUMBERS))
def test_counts_and_seeds_are_whole(name: str) -> None:
    with pytest.raises(RequestError, match="whole number"):
        request(**{name: 4.5})


@pytest.mark.parametrize("prompt", ["", "  ", "\n\t"])
def test_an_empty_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(RequestError, match="prompt is empty"):
        request(prompt=prompt)


def test_an_unknown_style_or_sampler_lists_the_known_ones() -> None:
    with pytest.raises(RequestError, match="Film Noir, Neon"):
        request(style="Film Noire")
    with pytest.raises(RequestError, match="euler_ancestral"):
        request(sampler="plms")


def test_every_sampler_that_can_be_asked_for_exists() -> None:
    assert list(SAMPLERS) == list(SAMPLER_NAMES)


def test_width_needs_height() -> None:
    with pytest.raises(RequestError, match="belong together"):
        request(width=128)


def test_an_unknown_field_is_not_swallowed() -> None:
    with pytest.raises(TypeError, match="step_count"):
        request(step_count=4)


@given(st.text(min_size=1), st.none() | st.text(), st.sampled_from(sorted(STYLES)))
def test_a_style_keeps_every_word_of_the_user(prompt: str, negative: str | None, style: str) -> None:
    styled, styled_negative = apply_style(style, prompt, negative)
    assert prompt in styled
    if style == NO_STYLE:
        assert (styled, styled_negative) == (prompt, negative)
    elif negative:
        assert styled_negative is not None
        assert styled_negative.endswith(negative)


def test_every_style_has_one_place_for_the_prompt() -> None:
    assert all(style.template.count("{prompt}") == 1 for style in STYLES.values())
    assert set(STYLES) >= {"Watercolor", "Film Noir", "Neon", "Jungle", "Mars", "Vibrant Color", "Snow", "Line art"}
