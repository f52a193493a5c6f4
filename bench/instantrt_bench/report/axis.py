"""Axes: where a value stands between two ends, and which round values get a tick."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

STEPS = (1, 2, 2.5, 5, 10)
TICKS = 5


@dataclass(frozen=True)
class Axis:
    """A range of values, linear or logarithmic.

    Args:
        low: stands at 0.
        high: stands at 1.
        ticks: round values from low to high.
        log: whether equal ratios, not equal differences, are equally far apart; then ``low`` is positive.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    @classmethod
    def linear(cls, values: Iterable[float], *, zero: bool = False) -> Axis:
        """From the values' smallest, or from 0, to their largest, widened to round values."""
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        if zero:
            low, high = min(0.0, low), max(0.0, high)
        if low == high:
            low, high = (low - abs(low) / 10, high + abs(high) / 10) if low else (0.0, 1.0)
        step = _round_step((high - low) / TICKS)
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        ticks = tuple(round(index * step, 12) for index in range(first, last + 1))
        return cls(ticks[0], ticks[-1], ticks)

    @classmethod
    def logarithmic(cls, values: Iterable[float]) -> Axis:
        """Between the powers of ten around the positive values, or closer where they span less than one."""
        finite = [value for value in values if math.isfinite(value) and value > 0] or [1.0]
        low, high = min(finite), max(finite)
        if high / low < 10:
            return _narrow(low, high)
        first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
        stride = max(1, math.ceil((last - first) / TICKS))
        ticks = tuple(10.0**exponent for exponent in range(first, last + 1, stride))
        return cls(10.0**first, 10.0**last, ticks, log=True)

    def at(self, value: float) -> float:
        """Where a value stands, 0 to 1; beyond the ends it stands at the end."""
        if self.log:
            if value <= 0:
                return 0.0
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(1.0, max(0.0, share)) if not math.isnan(share) else 0.0


def _narrow(low: float, high: float) -> Axis:
    """A logarithmic axis of less than a decade or two, with ticks at 1, 2 and 5 times powers of ten."""
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    candidates = [factor * 10.0**exponent for exponent in exponents for factor in (1, 2, 5)]
    first = max(value for value in candidates if value <= low * (1 + 1e-9))
    last = min(value for value in candidates if value >= high * (1 - 1e-9) and value > first)
    return Axis(first, last, tuple(value for value in candidates if first <= value <= last), log=True)


def _round_step(step: float) -> float:
    power: float = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in STEPS if factor * power >= step * (1 - 1e-9))
