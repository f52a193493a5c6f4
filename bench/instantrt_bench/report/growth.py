"""How latency grows with steps, samples and pixels: a chart of fitted lines and a table of their figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from instantrt_bench.report.charts import Chart, Point, Series, point_chart, system_colour
from instantrt_bench.report.text import NOTHING, Cell, number, tick_text
from instantrt_bench.results.files import ResultFile
from instantrt_bench.results.growth import Growth, growth_of


def axes_of(results: ResultFile) -> list[list[Growth]]:
    """The lines of every system, one list for each figure."""
    return [list(lines) for _, lines in groupby(growth_of(results), lambda growth: (growth.axis, growth.held))]


def growth_chart(lines: Sequence[Growth]) -> Chart:
    """Medians as dots, and the line through those of each system from zero on."""
    series = [one for growth in lines for one in (_line(growth), _medians(growth))]
    above_zero = min(point.y for one in series for point in one.points) >= 0
    label = f"latency against {lines[0].axis}, fitted lines of {len(lines)} systems"
    return point_chart(series, label, (_units(lines[0]), "ms"), zero=above_zero)


def growth_header(lines: Sequence[Growth]) -> list[str]:
    """Of the table."""
    slope = f">ms per {lines[0].unit}"
    return ["system", ">fixed ms", slope, ">r\u00b2", ">largest residual ms", ">points", ">of the peak"]


def growth_rows(lines: Sequence[Growth]) -> Iterator[list[Cell]]:
    """A line's figures in one row."""
    for growth in lines:
        line, shares = growth.line, growth.share_of_peak
        figures = (line.fixed_ms, line.slope_ms, f"{line.r2:.5f}", line.largest_residual_ms, len(growth.values))
        yield [growth.system, *figures, f"{_percent(shares[0])} to {_percent(shares[-1])}"]


def _line(growth: Growth) -> Series:
    ends = [Point(value, growth.line.at(value)) for value in (0.0, growth.values[-1])]
    return Series(growth.system, system_colour(growth.system), ends, dots=False)


def _medians(growth: Growth) -> Series:
    points = [
        Point(value, ms, f"{growth.system}: {number(ms)} ms at {tick_text(value)} {_units(growth)}")
        for value, ms in zip(growth.values, growth.p50_ms, strict=True)
    ]
    return Series(growth.system, system_colour(growth.system), points, joined=False)


def _units(growth: Growth) -> str:
    """The name of the axis, or a multiple of it."""
    return growth.axis if growth.unit == growth.axis.removesuffix("s") else growth.unit


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.0f} %"
