"""Figures as inline SVG. Text keeps its size at every width: across, all places are shares of the figure's width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from instantrt_bench.report.axis import Axis
from instantrt_bench.report.figures import number, tick_text
from instantrt_bench.report.markup import Html, breakable, tag

BAR_PX, ROW_PX, AXIS_PX, PLOT_PX = 12, 22, 20, 220
MOST_LABELS = 4
SHORT_LABEL, SHORT_TEXT = 26, 40  # characters that fit beside a plot on a wide screen


@dataclass(frozen=True)
class Row:
    """One line of a row chart.

    Args:
        label: names it.
        text: its figures in words.
        css: class of its colour.
        value: the estimate; None leaves the line empty.
        bounds: of the estimate's interval.
        samples: drawn as dots.
        bar: whether a bar reaches from the axis' low end to the value.
    """

    label: str
    text: str
    css: str
    value: float | None = None
    bounds: tuple[float, float] | None = None
    samples: Sequence[float] = ()
    bar: bool = False


@dataclass(frozen=True)
class Mark:
    """A value that matters on an axis, e.g. a limit."""

    value: float
    label: str


@dataclass(frozen=True)
class Part:
    """One piece of a stacked bar."""

    label: str
    value: float
    css: str


@dataclass(frozen=True)
class Stack:
    """One stacked bar."""

    label: str
    text: str
    parts: Sequence[Part]


@dataclass(frozen=True)
class Point:
    """One point of a line or cloud.

    Args:
        x: across.
        y: up.
        title: shown when it is pointed at.
        bounds: of y's interval.
        hollow: whether it is only outlined.
    """

    x: float
    y: float
    title: str = ""
    bounds: tuple[float, float] | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Series:
    """Points of one colour, joined by a line or not; unnamed series get no entry in the legend."""

    label: str
    css: str
    points: Sequence[Point]
    joined: bool = True
    dots: bool = True


def row_chart(rows: Sequence[Row], axis: Axis, unit: str, marks: Sequence[Mark] = ()) -> Html:
    """Lines of bars or dots over one axis, each below its own text."""
    coloured = len({row.css for row in rows}) > 1
    short = all(len(row.label) <= SHORT_LABEL and len(row.text) <= SHORT_TEXT for row in rows)
    lines = []
    for row in rows:
        head = _row_head(row.label, row.text, row.css if coloured else None)
        lines.append(tag("div", *head, _row_plot(row, axis, marks), class_="row"))
    return tag("div", *lines, _x_axis(axis, unit, marks), class_="rows beside" if short else "rows")


def stack_chart(stacks: Sequence[Stack], axis: Axis, unit: str) -> Html:
    """Bars made of parts, over one axis from 0, with a legend."""
    lines = []
    for stack in stacks:
        start, pieces = 0.0, []
        for part in stack.parts:
            left, right = axis.at(start), axis.at(start + part.value)
            title = tag("title", f"{part.label}: {number(part.value)} {unit}")
            place = {"x": _percent(left), "width": _percent(right - left)}
            pieces.append(tag("rect", title, y=2, height=ROW_PX - 4, class_=f"part {part.css}", **place))
            start += part.value
        plot = tag(
            "svg", *_grid(axis, ROW_PX), *pieces, class_="line", height=ROW_PX, role="img", aria_label=stack.text
        )
        lines.append(tag("div", *_row_head(stack.label, stack.text, None), plot, class_="row"))
    entries = {part.label: part.css for stack in stacks for part in stack.parts}
    return tag("div", legend(entries), *lines, _x_axis(axis, unit, ()), class_="rows")


def point_plot(
    series: Sequence[Series],
    x_axis: Axis,
    y_axis: Axis,
    *,
    label: str,
    y_unit: str,
    x_unit: str = "",
    x_labels: Sequence[str] | None = None,
    marks: Sequence[Mark] = (),
    diagonal: bool = False,
) -> Html:
    """Lines or clouds of points over two axes.

    Args:
        series: drawn one over the other.
        x_axis: across.
        y_axis: up.
        label: what the figure shows, for those who cannot see it.
        y_unit: stands above the figure.
        x_unit: stands below it.
        x_labels: names of x = 0, 1, 2... in place of numbers; as many are shown as fit.
        marks: lines across.
        diagonal: whether x = y is drawn.
    """
    drawn: list[Html] = []
    for tick in y_axis.ticks:
        y = _y(y_axis, tick)
        drawn.append(tag("line", x1="0%", x2="100%", y1=y, y2=y, class_="grid"))
        drawn.append(tag("text", tick_text(tick), x=-6, y=y + 4, class_="tick end"))
    drawn += _x_ticks(x_axis, x_labels)
    for mark in marks:
        y = _y(y_axis, mark.value)
        drawn.append(tag("line", x1="0%", x2="100%", y1=y, y2=y, class_="mark"))
        drawn.append(tag("text", mark.label, x="100%", y=y - 4, class_="tick end"))
    if diagonal:
        low, high = max(x_axis.low, y_axis.low), min(x_axis.high, y_axis.high)
        ends = {"x1": _percent(x_axis.at(low)), "x2": _percent(x_axis.at(high))}
        drawn.append(tag("line", y1=_y(y_axis, low), y2=_y(y_axis, high), class_="mark", **ends))
    for one in series:
        drawn += _series(one, x_axis, y_axis)
    svg = tag("svg", *drawn, class_="plot", height=PLOT_PX + AXIS_PX, role="img", aria_label=label)
    named = {one.label: one.css for one in series if one.label}
    return tag(
        "div",
        legend(named) if len(named) > 1 else None,
        tag("p", y_unit, class_="unit"),
        svg,
        tag("p", x_unit, class_="unit end") if x_unit else None,
        class_="points",
    )


def legend(entries: dict[str, str]) -> Html:
    """Names beside their colours."""
    items = (tag("li", tag("span", class_=f"swatch {css}"), name) for name, css in entries.items())
    return tag("ul", *items, class_="legend")


def _row_head(label: str, text: str, css: str | None) -> tuple[Html, Html]:
    swatch = tag("span", class_=f"swatch {css}") if css else None
    return tag("span", swatch, breakable(label), class_="label"), tag("span", text, class_="value")


def _row_plot(row: Row, axis: Axis, marks: Sequence[Mark]) -> Html:
    middle = ROW_PX / 2
    drawn = [*_grid(axis, ROW_PX), *(_upright(axis.at(mark.value), ROW_PX, "mark") for mark in marks)]
    if row.value is not None and row.bar:
        width = _percent(axis.at(row.value))
        drawn.append(tag("rect", x=0, y=middle - BAR_PX / 2, width=width, height=BAR_PX, class_=f"bar {row.css}"))
    for sample in row.samples:
        drawn.append(tag("circle", cx=_percent(axis.at(sample)), cy=middle, r=2.5, class_=f"sample {row.css}"))
    if row.bounds is not None:
        left, right = (_percent(axis.at(bound)) for bound in row.bounds)
        drawn.append(tag("line", x1=left, x2=right, y1=middle, y2=middle, class_="interval"))
        drawn += [tag("line", x1=x, x2=x, y1=middle - 4, y2=middle + 4, class_="interval") for x in (left, right)]
    if row.value is not None and not row.bar:
        drawn.append(tag("circle", cx=_percent(axis.at(row.value)), cy=middle, r=4.5, class_=f"dot {row.css}"))
    label = f"{row.label}: {row.text}"
    return tag("svg", tag("title", label), *drawn, class_="line", height=ROW_PX, role="img", aria_label=label)


def _x_axis(axis: Axis, unit: str, marks: Sequence[Mark]) -> Html:
    """Ticks below the rows; the labels of marks below those."""
    drawn = _ticks(axis, 14)
    labels = [_tick_text(mark.label, axis.at(mark.value), 30) for mark in marks]
    height = AXIS_PX + (16 if marks else 0)
    svg = tag("svg", *drawn, *labels, class_="line", height=height, aria_hidden="true")
    return tag("div", svg, tag("p", unit, class_="unit end"), class_="axis")


def _grid(axis: Axis, height: float) -> list[Html]:
    return [_upright(axis.at(tick), height, "grid") for tick in axis.ticks]


def _upright(share: float, height: float, css: str) -> Html:
    return tag("line", x1=_percent(share), x2=_percent(share), y1=0, y2=height, class_=css)


def _ticks(axis: Axis, y: float) -> list[Html]:
    """Of many labels every other one is left out where the page is narrow."""
    many = len(axis.ticks) > MOST_LABELS
    return [
        _tick_text(tick_text(tick), axis.at(tick), y, " minor" if many and index % 2 else "")
        for index, tick in enumerate(axis.ticks)
    ]


def _tick_text(text: str, share: float, y: float, css: str = "") -> Html:
    """Centred on its place, but kept inside the figure near its ends."""
    anchor = "start" if share < 0.08 else "end" if share > 0.92 else "middle"
    return tag("text", text, x=_percent(share), y=y, class_=f"tick {anchor}{css}")


def _x_ticks(axis: Axis, labels: Sequence[str] | None) -> list[Html]:
    if labels is None:
        return _ticks(axis, PLOT_PX + 18)
    stride = max(1, -(-(len(labels) - 1) // (MOST_LABELS - 1)))
    shown = range(len(labels) - 1, -1, -stride)  # the newest always gets its label
    return [_tick_text(labels[index], axis.at(index), PLOT_PX + 18) for index in shown]


def _series(series: Series, x_axis: Axis, y_axis: Axis) -> list[Html]:
    places = [(_percent(x_axis.at(point.x)), _y(y_axis, point.y)) for point in series.points]
    drawn = []
    if series.joined:
        for (x1, y1), (x2, y2) in pairwise(places):
            drawn.append(tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=f"joint {series.css}"))
    for point, (x, y) in zip(series.points, places, strict=True):
        if point.bounds is not None:
            low, high = (_y(y_axis, bound) for bound in point.bounds)
            drawn.append(tag("line", x1=x, x2=x, y1=low, y2=high, class_=f"joint faint {series.css}"))
        if series.dots:
            css = f"dot {series.css}{' hollow' if point.hollow else ''}"
            drawn.append(tag("circle", tag("title", point.title) if point.title else None, cx=x, cy=y, r=4, class_=css))
    return drawn


def _y(axis: Axis, value: float) -> float:
    return round(8 + (PLOT_PX - 8) * (1 - axis.at(value)), 2)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}%"
