"""Requests are checked before any work is done."""

from __future__ import annotations

import dataclasses
import enum
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from doubles.values import ANYTHING, TEXTS
from instantrt.conditioning.styles import NO_STYLE, STYLES, apply_style
from instantrt.errors import RequestError
from instantrt.plain import MAX_TEXT
from instantrt.request import MAX_SIDE_PX, RANGES, SAMPLER_NAMES, WHOLE_NUMBERS, GenerateRequest
from instantrt.samplers import SAMPLERS


def request(**fields: Any) -> GenerateRequest:
    """A request; a width or height that is given alone gets the other one."""
    sides = {"height": 128} if "width" in fields else {"width": 128} if "height" in fields else {}
    return GenerateRequest(**{"face": "photo.jpg", "prompt": "a person", **sides, **fields})


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
    ("width", 64, MAX_SIDE_PX, 64),
    ("height", 64, MAX_SIDE_PX, 64),
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
@pytest.mark.parametrize(
    "value",
    ["4", b"4", True, np.True_, math.nan, -math.inf, 4 + 0j, np.array(4), [4], Decimal("NaN"), Decimal("sNaN")],
    ids=repr,
)
def test_a_number_must_be_a_finite_real_number(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"{name} must be a (whole )?number\nFound: "):
        request(**{name: value})


FOUR = [4, 4.0, np.int8(4), np.uint64(4), np.float16(4), np.longdouble(4), Decimal("4.00"), Fraction(8, 2)]


@pytest.mark.parametrize("four", FOUR, ids=repr)
def test_a_whole_number_of_any_kind_is_kept_as_an_int(four: Any) -> None:
    made = request(steps=four, samples=four, seed=four)
    numbers = [made.steps, made.samples, made.seed]
    assert numbers == [4, 4, 4]
    assert {type(number) for number in numbers} == {int}


@pytest.mark.parametrize("half", [0.5, np.float16(0.5), np.float32(0.5), Decimal("0.5"), Fraction(1, 2)], ids=repr)
def test_a_real_number_of_any_kind_is_kept_as_a_float(half: Any) -> None:
    made = request(identity_strength=half, adapter_strength=half, control_guidance_end=half, guidance_scale=half + 1)
    numbers = [made.identity_strength, made.adapter_strength, made.control_guidance_end, made.guidance_scale]
    assert numbers == [0.5, 0.5, 0.5, 1.5]
    assert {type(number) for number in numbers} == {float}


@pytest.mark.parametrize("name", RANGES)
@pytest.mark.parametrize(
    "huge", [10**400, -(10**400), 10**5000, Fraction(10**400), Decimal("1e999999999")], ids=lambda value: "huge"
)
def test_a_number_beyond_every_float_is_out_of_range(name: str, huge: Any) -> None:
    with pytest.raises(RequestError, match=f"{name} must be from"):
        request(**{name: huge})


@pytest.mark.parametrize("name", sorted(WHOLE_NUMBERS))
@pytest.mark.parametrize("share", [0.5, np.float32(0.25), Decimal("0.1"), Fraction(1, 3)], ids=repr)
def test_what_counts_is_whole(name: str, share: Any) -> None:
    with pytest.raises(RequestError, match=f"{name} must be a whole number"):
        request(**{name: int(RANGES[name].low) + share})


@pytest.mark.parametrize("value", [None, 0, 1, 1.0, "true", "", np.int8(1), np.array(True), []], ids=repr)
def test_a_truth_value_must_be_one(value: Any) -> None:
    with pytest.raises(RequestError, match="enhance_face_region must be true or false"):
        request(enhance_face_region=value)
    assert request(enhance_face_region=np.False_).enhance_face_region is False


class Named(enum.StrEnum):
    NEON = "Neon"


@pytest.mark.parametrize("value", [np.str_("Neon"), Named.NEON], ids=repr)
def test_a_text_of_any_kind_is_kept_as_a_plain_one(value: str) -> None:
    made = request(prompt=value, negative_prompt=value, style=value)
    texts = [made.prompt, made.negative_prompt, made.style]
    assert texts == ["Neon"] * 3
    assert {type(text) for text in texts} == {str}


@pytest.mark.parametrize("name", ["prompt", "negative_prompt", "style", "sampler"])
@pytest.mark.parametrize("value", [1, b"euler", ["a"], np.array(["a", "b"]), object()], ids=lambda value: "no-text")
def test_a_text_must_be_one(name: str, value: Any) -> None:
    with pytest.raises(RequestError, match=f"{name} must be a text"):
        request(**{name: value})


@pytest.mark.parametrize(
    ("text", "found"),
    [("caf\udce9", "byte 0xe9 at character 4"), ("\ud83d smile", r"half of a surrogate pair, U\+D83D, at character 1")],
    ids=["latin-1", "half"],
)
@pytest.mark.parametrize("name", ["prompt", "negative_prompt", "style", "sampler"])
def test_text_that_is_not_unicode_is_refused_and_says_where(name: str, text: str, found: str) -> None:
    with pytest.raises(RequestError, match=f"{name} is not Unicode text\nFound: {found}"):
        request(**{name: text})


def test_a_prompt_may_be_long_but_not_a_book() -> None:
    assert len(request(prompt="x" * MAX_TEXT).prompt) == MAX_TEXT
    for name in ("prompt", "negative_prompt"):
        with pytest.raises(RequestError, match=f"{name} is too long\nFound: 20,001 characters"):
            request(**{name: "x" * (MAX_TEXT + 1)})


@pytest.mark.parametrize(("width", "height", "hint"), [(100, 128, "128x128"), (128, 65, "128x64"), (90, 100, "64x128")])
def test_sides_are_multiples_of_64(width: int, height: int, hint: str) -> None:
    with pytest.raises(RequestError, match=f"multiples of 64\nFound: {width}x{height}\nTo do: use {hint}"):
        request(width=width, height=height)


FIELDS = {field.name: field for field in dataclasses.fields(GenerateRequest) if field.name not in ("face", "pose")}
PLAIN = {**dict.fromkeys(RANGES, (int, float)), "enhance_face_region": (bool,)}


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), ANYTHING | TEXTS, min_size=1))
def test_whatever_a_field_is_given_it_is_kept_plain_or_refused_with_a_message(fields: dict[str, Any]) -> None:
    refused, made = None, None
    try:
        made = request(**fields)
    except RequestError as error:
        refused = error
    if made is None:
        assert refused is not None
        assert (bool(refused.found), bool(refused.hint)) == (True, True)
        assert str(refused).encode()
        return
    for name in FIELDS:
        assert isinstance(getattr(made, name), (*PLAIN.get(name, (str,)), type(None)))
    assert request(**dataclasses.asdict(made)) == made


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
        request(width=128, height=None)


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
