"""The report's charts: values stand where the axis says, text comes through unharmed, colours have contrast."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from importlib.resources import files
from itertools import pairwise

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instantrt_bench.report.charts import Chart, Part, Point, Row, Series, point_chart, row_chart
from instantrt_bench.report.svg import COLOURS, SIZES

VALUES = st.floats(-1e9, 1e9).filter(lambda value: value == 0 or abs(value) > 1e-9)
POSITIVE = st.floats(1e-9, 1e9)


@pytest.mark.parametrize("log", [False, True])
def test_dots_samples_intervals_and_marks_stand_at_their_values(log: bool) -> None:
    rows = [
        Row("first", "", dot=50, bounds=(40, 75), samples=(20, 80)),
        Row("second", "", dot=3, bounds=(2, 700), samples=(3,)),
    ]
    for svg in _drawings(row_chart(rows, "ms", marks={"limit": 500}, log=log)):
        value = _axis(svg, "x", log=log)
        assert [value(x) for x, _ in _circles(svg, "dot")] == pytest.approx([50, 3], rel=1e-3)
        assert [value(x) for x, _ in _circles(svg, "sample")] == pytest.approx([20, 80, 3], rel=1e-3)
        ends = [value(x) for path in _paths(svg, "interval") for x in (path[0][0], path[-1][0])]
        assert ends == pytest.approx([40, 75, 2, 700], rel=1e-3)
        assert [value(x) for path in _paths(svg, "mark") for x, _ in path] == pytest.approx([500, 500], rel=1e-3)


def test_a_row_stands_below_its_text_and_above_the_next() -> None:
    rows = [Row("first", "1 ms", dot=1), Row("second", "2 ms", dot=2)]
    for svg in _drawings(row_chart(rows, "ms")):
        heights = {text.text: float(text.attrib["y"]) for text in svg.iter("text")}
        (_, first), (_, second) = _circles(svg, "dot")
        assert heights["first: 1 ms"] < first < heights["second: 2 ms"] < second


def test_parts_of_a_bar_follow_each_other_from_zero() -> None:
    chart = row_chart([Row("system", "", parts=[Part("face", 20, "s1"), Part("loop", 60, "s3")])], "ms")
    assert chart.legend == {"face": "s1", "loop": "s3"}
    for svg in _drawings(chart):
        value = _axis(svg, "x")
        ends = [[value(x) for x, _ in path] for path in _paths(svg, "bar")]
        assert [(min(xs), max(xs)) for xs in ends] == [
            pytest.approx((0, 20), abs=0.1),
            pytest.approx((20, 80), abs=0.1),
        ]
        assert [bar.findtext("title") for bar in _groups(svg, "bar")] == ["face", "loop"]
        looks = [path.attrib["style"] for bar in _groups(svg, "bar") for path in bar.iter("path")]
        assert ["fill: var(--s1)" in looks[0], "fill: var(--s3)" in looks[1]] == [True, True]


@pytest.mark.parametrize("log", [False, True])
def test_points_are_joined_in_order_and_stand_at_their_values(log: bool) -> None:
    points = [Point(1, 2, "first"), Point(5, 900, "second", hollow=True), Point(10, 40, "third", bounds=(20, 60))]
    for svg in _drawings(
        point_chart([Series("a", "s2", points)], "trend", ("run", "ms"), marks={"limit": 500}, log=log)
    ):
        across, up = _axis(svg, "x"), _axis(svg, "y", log=log)
        places = _circles(svg, "dot")
        assert [across(x) for x, _ in places] == pytest.approx([1, 5, 10], abs=0.02)
        assert [up(y) for _, y in places] == pytest.approx([2, 900, 40], rel=1e-3)
        assert _paths(svg, "line") == [places]
        assert [up(y) for path in _paths(svg, "interval") for _, y in path] == pytest.approx([20, 60], rel=1e-3)
        assert [up(y) for path in _paths(svg, "mark") for _, y in path] == pytest.approx([500, 500], rel=1e-3)
        assert [dot.findtext("title") for dot in _groups(svg, "dot")] == ["first", "second", "third"]
        fills = [re.findall(r"fill: var\(--(\w+)\)", circle.attrib["style"]) for circle in svg.iter("circle")]
        assert fills == [["s2"], ["raised"], ["s2"]]


def test_lines_and_clouds_of_points_are_told_apart() -> None:
    points = [Point(0, 0), Point(1, 1)]
    line, cloud = Series("line", "s1", points, dots=False), Series("cloud", "s2", points, joined=False)
    for svg in _drawings(point_chart([line, cloud], "", ("", ""))):
        assert [group.findtext("title") for group in _groups(svg, "line")] == ["line"]
        assert len(_circles(svg, "dot")) == 2


def test_an_axis_begins_at_zero_if_asked() -> None:
    series = [Series("a", "s1", [Point(0, 90), Point(1, 100)])]
    for svg in _drawings(point_chart(series, "", ("", "ms"), zero=True)):
        assert "0" in [text for text, _ in _ticks(svg, "y")]


def test_the_newest_run_is_always_named_and_no_more_are_than_fit() -> None:
    names = [f"commit{index}" for index in range(23)]
    chart = point_chart([Series("a", "s1", [Point(n, 1) for n in range(23)])], "", ("", ""), names=names)
    for svg, (_, most, _) in zip(_drawings(chart), SIZES, strict=True):
        shown = {text.text: float(text.attrib["x"]) for text in svg.iter("text") if text.text in names}
        assert shown["commit22"] == pytest.approx(_circles(svg, "dot")[-1][0], abs=0.01)
        assert 2 <= len(shown) <= most


@settings(deadline=None, max_examples=15)
@given(st.lists(VALUES, min_size=1), st.booleans())
def test_a_linear_axis_holds_all_values_with_two_ticks_or_more(values: list[float], bar: bool) -> None:
    parts = [Part("", max(values), "s1")] if bar else []
    for svg in _drawings(row_chart([Row("", "", parts=parts, samples=values)], "")):
        _assert_inside(svg)


@settings(deadline=None, max_examples=15)
@given(st.lists(POSITIVE, min_size=1))
def test_a_logarithmic_axis_holds_all_values_with_two_ticks_or_more(values: list[float]) -> None:
    for svg in _drawings(row_chart([Row("", "", samples=values)], "", log=True)):
        _assert_inside(svg)


@settings(deadline=None, max_examples=15)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn", "Zs", "Zl", "Zp"]), min_size=1, max_size=20))
@pytest.mark.filterwarnings("error")
def test_text_comes_back_as_it_was(text: str) -> None:
    for svg in _drawings(row_chart([Row("a", text, parts=[Part(text, 1, "s1")])], "")):
        assert f"a: {text}" in [element.text for element in svg.iter("text")]
        assert [bar.findtext("title") for bar in _groups(svg, "bar")] == [text]
        assert svg.get("aria-label") == f"a: {text}"


@pytest.mark.parametrize("text", ["$x^2$", "</svg><script>alert(1)</script>", "_hidden", "\x1b[31mred\x00", "#000001"])
def test_no_text_is_read_as_mathematics_markup_colour_or_nothing(text: str) -> None:
    chart = row_chart([Row(text, "", parts=[Part(text, 1, "s1")])], "")
    shown = re.sub(r"[\x00-\x1f]", " ", f"{text}:").split()
    assert text in chart.legend
    for svg in _drawings(chart):
        assert shown in [(element.text or "").split() for element in svg.iter("text")]
        assert not list(svg.iter("script"))


def test_long_labels_are_wrapped_at_slashes_within_the_drawing() -> None:
    label = "runtime-onnxruntime, e2e/steps=10/samples=1/guidance=5/size=128x128/sampler=euler"
    for svg, (_, _, characters) in zip(_drawings(row_chart([Row(label, "1.00", dot=1)], "")), SIZES, strict=True):
        lines = [text.text or "" for text in svg.iter("text") if not re.fullmatch(r"[\d.]+", text.text or "")]
        assert " ".join(lines).replace("/ ", "/") == f"{label}: 1.00"
        assert max(map(len, lines)) <= characters


def test_a_drawing_has_no_colours_of_its_own_and_none_but_those_of_the_style_sheet() -> None:
    chart = point_chart([Series("a", "s1", [Point(0, 1), Point(1, 2, bounds=(1, 3))])], "", ("x", "y"), marks={"m": 2})
    for drawing in chart.drawings:
        assert not re.search(r"#[0-9a-f]{3}|rgb|black|url\(| id=", drawing)
        assert set(re.findall(r"var\(--(\w+)\)", drawing)) == {"s1", "raised", "soft", "grid"}
    for scheme in ("light", "dark"):
        assert set(COLOURS) <= set(_style(scheme))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_stand_out_from_the_ground_of_figures(scheme: str) -> None:
    """WCAG 2.1: 3 for what is drawn, 4.5 for text."""
    colours = _style(scheme)
    ground = colours["raised"]
    contrasts = {name: _contrast(colours[name], ground) for name in COLOURS}
    assert [name for name, contrast in contrasts.items() if name.startswith("s") and contrast < 3] == []
    assert min(contrasts["ink"], contrasts["soft"]) >= 4.5
    assert min(math.dist(_rgb(a), _rgb(b)) for a, b in pairwise(sorted(colours[f"s{n}"] for n in range(7)))) > 0.15


def test_the_same_figures_make_the_same_drawing_whatever_matplotlib_is_set_to() -> None:
    rows = [Row("a", "1", dot=1, bounds=(0.5, 2), samples=[1, 2])]
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "svg.fonttype": "path"}):
        other = row_chart(rows, "ms")
        assert matplotlib.rcParams["font.size"] == 30
    assert other.drawings == row_chart(rows, "ms").drawings


def _drawings(chart: Chart) -> list[ET.Element]:
    """Each parsed strictly."""
    assert len(chart.drawings) == len(SIZES)
    return [ET.fromstring(drawing) for drawing in chart.drawings]


def _groups(svg: ET.Element, kind: str) -> list[ET.Element]:
    return [group for group in svg.iter("g") if group.get("class") == kind]


def _circles(svg: ET.Element, kind: str) -> list[tuple[float, float]]:
    return [
        (float(circle.attrib["cx"]), float(circle.attrib["cy"]))
        for group in _groups(svg, kind)
        for circle in group.iter("circle")
    ]


def _paths(svg: ET.Element, kind: str) -> list[list[tuple[float, float]]]:
    return [_corners(path) for group in _groups(svg, kind) for path in group.iter("path")]


def _corners(path: ET.Element) -> list[tuple[float, float]]:
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.attrib["d"])]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _ticks(svg: ET.Element, which: str) -> Iterator[tuple[str, float]]:
    """Every grid line's label, and its place."""
    for group in svg.iter("g"):
        path, text = group.find("./g/path"), group.find("./g/text")
        if path is not None and text is not None and "var(--grid)" in path.attrib["style"]:
            (x, y), (other_x, _) = _corners(path)
            if (x == other_x) == (which == "x"):
                yield text.text or "", x if which == "x" else y


def _axis(svg: ET.Element, which: str, *, log: bool = False) -> Callable[[float], float]:
    """From a place to the value there, by the labels of the outermost ticks."""
    ticks = [(float(text.replace(",", "")), place) for text, place in _ticks(svg, which)]
    (low, start), (high, end) = min(ticks), max(ticks)
    if log:
        return lambda place: low * (high / low) ** ((place - start) / (end - start))
    return lambda place: low + (high - low) * (place - start) / (end - start)


def _assert_inside(svg: ET.Element) -> None:
    places = [place for _, place in _ticks(svg, "x")]
    assert len(places) >= 2
    width = float(svg.attrib["viewBox"].split()[2])
    drawn = [x for x, _ in _circles(svg, "sample")] + [x for path in _paths(svg, "bar") for x, _ in path]
    assert drawn
    assert 0 <= min(drawn + places) <= max(drawn + places) <= width


def _style(scheme: str) -> dict[str, str]:
    css = (files("instantrt_bench.report") / "templates" / "style.css").read_text(encoding="utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light if scheme == "light" else dark))


def _rgb(colour: str) -> list[float]:
    return [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]


def _contrast(a: str, b: str) -> float:
    def luminance(colour: str) -> float:
        channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in _rgb(colour)]
        return sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), channels, strict=True))

    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)
