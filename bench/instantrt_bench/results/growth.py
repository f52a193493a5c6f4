"""How latency grows with the work: straight lines through scenarios that differ in one number only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import numpy as np

from instantrt_bench.results.files import ResultFile, ScenarioResult

FEWEST_POINTS = 3  # two are always on a line


@dataclass(frozen=True)
class Axis:
    """One number that requests differ in.

    Args:
        name: of the number.
        keys: of a scenario's parameters whose product it is.
        unit: what a slope is per, in words.
        per: how much of the number that is.
    """

    name: str
    keys: tuple[str, ...]
    unit: str
    per: float = 1.0

    def value(self, parameters: Mapping[str, Any]) -> float:
        """In units."""
        return float(prod(parameters[key] for key in self.keys)) / self.per


AXES = (
    Axis("steps", ("steps",), "step"),
    Axis("samples", ("samples",), "sample"),
    Axis("pixels", ("width", "height"), "1,000 pixels", 1000.0),
)


@dataclass(frozen=True)
class Line:
    """A straight line through points, by ordinary least squares.

    Args:
        fixed_ms: where it meets zero: what a request takes whatever the work.
        slope_ms: per unit.
        r2: share of the variance that it explains; 1 where there is none.
        largest_residual_ms: of the points' distances from it, without sign.
    """

    fixed_ms: float
    slope_ms: float
    r2: float
    largest_residual_ms: float

    @classmethod
    def through(cls, values: Sequence[float], times_ms: Sequence[float]) -> Line:
        """Fit it.

        Raises:
            ValueError: fewer than two different values.
        """
        x, y = np.asarray(values, np.float64), np.asarray(times_ms, np.float64)
        if x.shape != y.shape or len(set(x.tolist())) < 2:
            raise ValueError("a line needs two different values, and a time for each")
        from_mean = x - x.mean()
        slope = float(from_mean @ (y - y.mean()) / (from_mean @ from_mean))
        fixed = float(y.mean() - slope * x.mean())
        residuals = y - (fixed + slope * x)
        scatter = float(np.square(y - y.mean()).sum())
        r2 = 1.0 if scatter == 0 else 1 - float(np.square(residuals).sum()) / scatter
        return cls(fixed, slope, r2, float(np.abs(residuals).max()))

    def at(self, value: float) -> float:
        """Its time in ms."""
        return self.fixed_ms + self.slope_ms * value


@dataclass(frozen=True)
class Growth:
    """How one system's latency grows along one axis.

    Args:
        axis: a name of :data:`AXES`.
        unit: of values and slope.
        held: what all its scenarios have in common, e.g. ``samples=1/size=128x128``.
        system: its id.
        values: in units, ascending.
        p50_ms: median latency at each.
        line: through them.
        share_of_peak: of the denoise stage at each value; None where no peak is known.
    """

    axis: str
    unit: str
    held: str
    system: str
    values: tuple[float, ...]
    p50_ms: tuple[float, ...]
    line: Line
    share_of_peak: tuple[float | None, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, the line's figures among the others."""
        data = asdict(self)
        line: dict[str, float] = data.pop("line")
        return {**{key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}, **line}


def growth_of(results: ResultFile) -> list[Growth]:
    """Every line that a file's scenarios have the points for, by axis, then by system."""
    return [growth for axis in AXES for held, group in _groups(results, axis) for growth in _lines(axis, held, group)]


def _groups(results: ResultFile, axis: Axis) -> Iterator[tuple[str, list[ScenarioResult]]]:
    """Scenarios that differ in nothing but the axis, in its order; one of each value."""
    groups: dict[str, dict[float, ScenarioResult]] = {}
    for scenario in results.scenarios:
        if all(key in scenario.parameters for key in axis.keys):
            held = _held(scenario.parameters, axis)
            groups.setdefault(held, {}).setdefault(axis.value(scenario.parameters), scenario)
    for held, by_value in groups.items():
        if len(by_value) >= FEWEST_POINTS:
            yield held, [by_value[value] for value in sorted(by_value)]


def _held(parameters: Mapping[str, Any], axis: Axis) -> str:
    others = {key: value for key, value in parameters.items() if key not in axis.keys}
    if {"width", "height"} <= set(others):
        width, height = others.pop("width"), others.pop("height")
        others["size"] = f"{width}x{height}"
    return "/".join(f"{key}={value}" for key, value in others.items())


def _lines(axis: Axis, held: str, group: Sequence[ScenarioResult]) -> Iterator[Growth]:
    for name in dict.fromkeys(name for scenario in group for name in scenario.systems):
        measured = [scenario for scenario in group if _median_ms(scenario, name) is not None]
        if len(measured) < FEWEST_POINTS:
            continue
        values = tuple(axis.value(scenario.parameters) for scenario in measured)
        times_ms = tuple(ms for scenario in measured if (ms := _median_ms(scenario, name)) is not None)
        shares = tuple(_share_of_peak(scenario, name) for scenario in measured)
        yield Growth(axis.name, axis.unit, held, name, values, times_ms, Line.through(values, times_ms), shares)


def _median_ms(scenario: ScenarioResult, name: str) -> float | None:
    """None if the system failed there, or was not finished."""
    system = scenario.systems.get(name)
    if system is None or system.status != "ok" or not system.summary.get("latency_ms"):
        return None
    return float(system.summary["latency_ms"]["p50"])


def _share_of_peak(scenario: ScenarioResult, name: str) -> float | None:
    roofline = scenario.systems[name].summary.get("roofline") or {}
    share = (roofline.get("denoise") or {}).get("share_of_peak")
    return None if share is None else float(share)
