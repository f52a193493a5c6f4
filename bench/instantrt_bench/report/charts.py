"""The report's two kinds of charts: rows of bars or dots over one axis, and points over two."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import TextWrapper
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes

from instantrt_bench.report.svg import COLOURS, LINE_PX, drawings
from instantrt_bench.results.systems import RUNTIME_ONNXRUNTIME, SYSTEMS

POINTS_PX, AXIS_PX = 290, 48
RUNTIME, OTHER_COLOUR = "runtime", "s5"  # results that do not say which target it was; a system that is not known
MARK: dict[str, Any] = {"color": COLOURS["soft"], "lw": 1, "ls": (0, (4, 3)), "gid": "mark"}

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """One figure, drawn at several sizes, and what its colours and dashed lines mean."""

    drawings: Sequence[Markup]
    legend: Mapping[str, str]
    marks: Sequence[str]


@dataclass(frozen=True)
class Part:
    """One piece of a bar."""

    label: str
    value: float
    colour: str


@dataclass(frozen=True)
class Row:
    """One line of a row chart: a bar made of parts, or a dot; with its interval and samples."""

    label: str
    text: str
    colour: str = "ink"
    parts: Sequence[Part] = ()
    dot: float | None = None
    bounds: Bounds | None = None
    samples: Sequence[float] = ()


@dataclass(frozen=True)
class Point:
    """One point of a series, its title shown when it is pointed at."""

    x: float
    y: float
    title: str = ""
    bounds: Bounds | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Series:
    """Points of one colour: joined by a line, faint or not, or drawn as dots, or both."""

    label: str
    colour: str
    points: Sequence[Point]
    joined: bool = True
    dots: bool = True
    faint: bool = False


def system_colour(system: str) -> str:
    """The colour of a system's bars and points: it follows the system, not its place in a figure."""
    if system == RUNTIME:
        return SYSTEMS[RUNTIME_ONNXRUNTIME].colour
    return SYSTEMS[system].colour if system in SYSTEMS else OTHER_COLOUR


def row_chart(rows: Sequence[Row], unit: str, *, marks: Mapping[str, float] | None = None, log: bool = False) -> Chart:
    """Bars or dots over one axis, each below its label and figures; ``marks`` are lines across all of them."""

    def draw(axes: Axes, _: int, characters: int) -> float:
        bottom = 0.0  # in lines of text
        for row in rows:
            lines = _wrapped(f"{row.label}: {row.text}", characters)
            for number, line in enumerate(lines):
                place = (0, bottom + number + 0.5)
                axes.text(*place, line, transform=axes.get_yaxis_transform(), va="center", in_layout=False)
            bottom += len(lines) + 1.7
            _draw_row(axes, row, bottom - 1.2)
        axes.set(ylim=(bottom, 0), yticks=(), xlabel=unit)
        for value in (marks or {}).values():
            axes.axvline(value, **MARK)
        return LINE_PX * bottom + AXIS_PX

    label = "; ".join(f"{row.label}: {row.text}" for row in rows)
    legend = {part.label: part.colour for row in rows for part in row.parts if part.label}
    return Chart(drawings(draw, label, ("log" if log else "linear", "linear")), legend, list(marks or ()))


def point_chart(
    series: Sequence[Series],
    label: str,
    units: tuple[str, str],
    *,
    names: Sequence[str] | None = None,
    marks: Mapping[str, float] | None = None,
    log: bool = False,
    zero: bool = False,
) -> Chart:
    """Lines or clouds of points.

    Args:
        series: drawn one over the other.
        label: what the figure shows, for those who cannot see it.
        units: of the axis across and of the axis up.
        names: of x = 0, 1, 2... in place of numbers; as many are shown as fit, the last among them.
        marks: lines across.
        log: whether the axis up is logarithmic.
        zero: whether it begins at 0.
    """

    def draw(axes: Axes, ticks: int, _: int) -> float:
        axes.set(xlabel=units[0], title=units[1])
        for value in (marks or {}).values():
            axes.axhline(value, **MARK)
        for one in series:
            _draw_series(axes, one)
        if zero:
            axes.set_ylim(bottom=0)
        if names is not None:
            shown = range(len(names) - 1, -1, -math.ceil(len(names) / ticks))
            axes.set(xlim=(-0.5, len(names) - 0.5), xticks=shown, xticklabels=[names[n] for n in shown])
        return POINTS_PX

    legend = {one.label: one.colour for one in series}
    drawn = drawings(draw, label, ("linear", "log" if log else "linear"))
    return Chart(drawn, legend if len(legend) > 1 else {}, list(marks or ()))


def _wrapped(text: str, characters: int) -> list[str]:
    wrapper = TextWrapper(characters, break_on_hyphens=False)
    wrapper.wordsep_simple_re = re.compile(r"(\s+)|(?<=/)")  # ids have no blanks
    return wrapper.wrap(text)


def _draw_row(axes: Axes, row: Row, y: float) -> None:
    start, edge = 0.0, COLOURS["raised"]
    for part in row.parts:
        axes.barh(y, part.value, 0.85, start, fc=COLOURS[part.colour], ec=edge, gid=f"bar {part.label}")
        start += part.value
    if row.samples:
        places = (row.samples, [y] * len(row.samples))
        axes.plot(*places, "o", ms=5, mew=0, color=COLOURS[row.colour], alpha=0.35, gid="sample")
    if row.bounds is not None:
        low, high = row.bounds
        path = ([low, low, low, high, high, high], [y - 0.25, y + 0.25, y, y, y - 0.25, y + 0.25])
        axes.plot(*path, color=COLOURS["ink"], lw=1.5, gid="interval")
    if row.dot is not None:
        axes.plot(row.dot, y, "o", ms=9, mfc=COLOURS[row.colour], mec=edge, gid="dot")


def _draw_series(axes: Axes, series: Series) -> None:
    colour, shade = COLOURS[series.colour], 0.5 if series.faint else 1.0
    if series.joined:
        places = ([point.x for point in series.points], [point.y for point in series.points])
        axes.plot(*places, color=colour, lw=2 * shade, alpha=shade, gid=f"line {series.label}")
    for point in series.points:
        if point.bounds is not None:
            axes.plot([point.x, point.x], point.bounds, color=colour, lw=1.5, alpha=0.5, gid="interval")
        if series.dots:
            face, edge = (COLOURS["raised"], colour) if point.hollow else (colour, COLOURS["raised"])
            axes.plot(point.x, point.y, "o", ms=8, mfc=face, mec=edge, mew=1.5, gid=f"dot {point.title}")
