"""The report's markup, axes and charts: escaping, ticks and places of known numbers."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instantrt_bench.report.axis import Axis
from instantrt_bench.report.charts import Mark, Part, Point, Row, Series, Stack, point_plot, row_chart, stack_chart
from instantrt_bench.report.figures import interval, number, ssim_text, table, tick_text
from instantrt_bench.report.markup import Html, breakable, join, tag

VALUES = st.floats(-1e9, 1e9).filter(lambda value: value == 0 or abs(value) > 1e-9)
POSITIVE = st.floats(1e-9, 1e9)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])))
def test_text_and_attributes_come_back_as_they_were(text: str) -> None:
    element = ET.fromstring(tag("p", text, title=text))
    assert (element.text or "") == text
    assert element.get("title") == text
    assert len(element) == 0


def test_markup_is_not_escaped_twice_and_names_are_translated() -> None:
    inner = tag("b", "<&>")
    assert tag("p", inner, None, "", class_="x", data_role="y", open=True, hidden=False, id=None) == (
        '<p class="x" data-role="y" open><b>&lt;&amp;&gt;</b></p>'
    )
    assert tag("img", alt="") == '<img alt="">'
    assert join("<", Html("<")) == "&lt;<"
    assert breakable("a/<b>/") == "a/<wbr>&lt;b&gt;/<wbr>"


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
        (0, "0"),
        (-0.0, "0"),
        (-0.00718, "-0.00718"),
        (None, "\u2013"),
    ],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


def test_intervals_come_from_plain_data_or_bounds() -> None:
    assert interval({"low": 1.5, "high": 2.25}) == interval([1.5, 2.25]) == "[1.50, 2.25]"
    assert interval(None) == interval([]) == "\u2013"


def test_ticks_have_no_trailing_zeros_and_ssim_is_never_rounded_up_to_one() -> None:
    assert [tick_text(value) for value in (5.0, 0.25, 1e-5, 20_000.0, 100.0)] == ["5", "0.25", "1e-5", "20,000", "100"]
    assert [ssim_text(value) for value in (1.0, 0.9999998, 0.99, None)] == ["1.00000", "> 0.99999", "0.99000", "\u2013"]


@pytest.mark.parametrize(
    ("values", "zero", "ticks"),
    [
        ([3.0, 97.0], True, (0, 20, 40, 60, 80, 100)),
        ([0.412, 0.788], False, (0.4, 0.5, 0.6, 0.7, 0.8)),
        ([-0.03, 0.01], False, (-0.03, -0.02, -0.01, 0, 0.01)),
        ([], True, (0, 0.2, 0.4, 0.6, 0.8, 1)),
    ],
)
def test_linear_ticks_are_round(values: list[float], zero: bool, ticks: tuple[float, ...]) -> None:
    assert Axis.linear(values, zero=zero).ticks == pytest.approx(ticks)


@settings(deadline=None)
@given(st.lists(VALUES, min_size=1), st.booleans())
def test_a_linear_axis_holds_all_values_with_two_to_eight_ticks(values: list[float], zero: bool) -> None:
    axis = Axis.linear(values, zero=zero)
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low - slack <= min(values)
    assert max(values) <= axis.high + slack
    assert 2 <= len(axis.ticks) <= 8
    assert not zero or axis.low <= 0 <= axis.high


@settings(deadline=None)
@given(st.lists(POSITIVE, min_size=1))
def test_a_logarithmic_axis_holds_all_values_with_two_to_eight_ticks(values: list[float]) -> None:
    axis = Axis.logarithmic(values)
    assert axis.low * (1 - 1e-6) <= min(values)
    assert max(values) <= axis.high * (1 + 1e-6)
    assert 2 <= len(axis.ticks) <= 8
    assert axis.ticks[0] == axis.low


def test_places_on_axes() -> None:
    assert Axis(10, 30, ()).at(15) == pytest.approx(0.25)
    assert Axis(1, 1000, (), log=True).at(10) == pytest.approx(1 / 3)
    assert [Axis(0, 1, ()).at(value) for value in (-5, 5, float("inf"), float("nan"))] == [0, 1, 1, 0]
    assert Axis(1, 10, (), log=True).at(0) == 0


def test_a_row_has_its_bar_interval_and_samples_in_place() -> None:
    row = Row("a <b>", "50 ms", "s1", 50, (40, 75), (25, 100), bar=True)
    svg = _svgs(row_chart([row], Axis(0, 100, (0, 50, 100)), "ms", [Mark(20, "limit")]))[0]
    assert [(one.get("x"), one.get("width")) for one in svg.findall("rect")] == [("0", "50.00%")]
    lines = {one.get("class"): (one.get("x1"), one.get("x2")) for one in reversed(svg.findall("line"))}
    assert lines["interval"] == ("40.00%", "75.00%")
    assert lines["mark"] == ("20.00%", "20.00%")
    assert [one.get("cx") for one in svg.findall("circle")] == ["25.00%", "100.00%"]
    assert svg.findtext("title") == "a <b>: 50 ms"


def test_stacked_parts_follow_each_other() -> None:
    stack = Stack("system", "", [Part("face", 20, "p1"), Part("loop", 60, "p3")])
    svg = _svgs(stack_chart([stack], Axis(0, 100, ()), "ms"))[0]
    places = [(one.get("x"), one.get("width"), one.findtext("title")) for one in svg.findall("rect")]
    assert places == [("0.00%", "20.00%", "face: 20.0 ms"), ("20.00%", "60.00%", "loop: 60.0 ms")]


def test_points_are_joined_in_order_and_stand_higher_for_larger_values() -> None:
    points = [Point(0, 0, "first"), Point(5, 10, "second", hollow=True), Point(10, 5, "third", bounds=(0, 10))]
    axes = (Axis(0, 10, (0, 10)), Axis(0, 10, (0, 10)))
    svg = _svgs(point_plot([Series("a", "s1", points)], *axes, label="trend", y_unit="ms"))[0]
    dots = svg.findall("circle")
    assert [one.get("cx") for one in dots] == ["0.00%", "50.00%", "100.00%"]
    heights = [float(one.get("cy") or "nan") for one in dots]
    assert heights[1] < heights[2] < heights[0]
    assert heights[2] == pytest.approx((heights[0] + heights[1]) / 2)
    assert [("hollow" in (one.get("class") or "")) for one in dots] == [False, True, False]
    joints = [one for one in svg.findall("line") if one.get("class") == "joint s1"]
    assert [(one.get("x1"), one.get("x2")) for one in joints] == [("0.00%", "50.00%"), ("50.00%", "100.00%")]


def test_the_newest_run_is_always_named_and_not_too_many_are() -> None:
    names = [f"commit{index}" for index in range(23)]
    points = [Point(index, 1) for index in range(23)]
    axis = Axis(-0.3, 22.3, ())
    series = [Series("a", "s1", points)]
    svg = _svgs(point_plot(series, axis, Axis(0, 1, ()), label="trend", y_unit="ms", x_labels=names))[0]
    shown = [one.text for one in svg.findall("text")]
    assert names[-1] in shown
    assert 2 <= len(shown) <= 4


def test_columns_of_numbers_stand_flush_right_with_their_heads() -> None:
    rows = [["a", 1.5, "ok", "[1, 2]"], ["b", None, "3 of 4 failed", None]]
    element = ET.fromstring(table(("system", "ms", "verdict", "interval"), rows, "times"))
    assert [one.get("class") for one in element.iter("th")][:4] == [None, "number", None, "number"]
    assert [one.text for one in element.iter("td")] == ["1.50", "ok", "[1, 2]", "\u2013", "3 of 4 failed", "\u2013"]


def _svgs(html: Html) -> list[ET.Element]:
    """Every figure inside, parsed strictly; boolean attributes do not occur in them."""
    return [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]
