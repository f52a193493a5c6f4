"""Numbers and facts as the report writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from instantrt_bench.report.text import breakable, interval_text, number, signed, ssim_text, tick_text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (235.34, "235"),
        (2.0387, "2.04"),
        (0.0921, "0.0921"),
        (0.001, "0.001"),
        (1.2371e-7, "1.2e-7"),
        (1e-5, "1e-5"),
        (8472.47, "8,472"),
        (99.96, "100.0"),
        (20, "20"),
        (0, "0"),
        (-0.0, "0"),
        (-0.00718, "-0.00718"),
        (None, "\u2013"),
    ],
)
def test_numbers_have_three_digits_and_counts_all_of_theirs(value: float | None, text: str) -> None:
    assert number(value) == text


def test_intervals_come_from_plain_data_or_bounds() -> None:
    assert interval_text({"low": 1.5, "high": 2.25}) == interval_text([1.5, 2.25]) == "[1.50, 2.25]"
    assert interval_text([-0.5, 0.5], signed) == "[-0.5, +0.5]"
    assert interval_text(None) == interval_text([]) == "\u2013"


def test_ticks_have_no_trailing_zeros_and_ssim_is_never_rounded_up_to_one() -> None:
    assert [tick_text(value) for value in (5.0, 0.25, 1e-5, 20_000.0, 100.0)] == ["5", "0.25", "1e-5", "20,000", "100"]
    assert [ssim_text(value) for value in (1.0, 0.9999998, 0.99, None)] == ["1.00000", "> 0.99999", "0.99000", "\u2013"]


@given(st.text())
def test_breakable_text_is_the_same_text_escaped(text: str) -> None:
    assert breakable("a/<b>/") == "a/<wbr>&lt;b&gt;/<wbr>"
    assert breakable(text).replace("<wbr>", "") == Markup.escape(text)
