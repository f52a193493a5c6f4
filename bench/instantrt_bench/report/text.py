"""Numbers and facts as text: the filters of the report's templates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from instantrt_bench.results.files import ResultFile

NOTHING = "\u2013"
SHA_DIGITS = 10

Bounds = Mapping[str, Any] | Sequence[float] | None
Cell = str | float | None


def number(value: float | None, digits: int = 3) -> str:
    """To ``digits`` significant digits, very small ones as powers of ten; counts in full; a dash for None."""
    if value is None:
        return NOTHING
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value) or value == 0:
        return f"{abs(value):g}" if value == 0 else f"{value:g}"
    if abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    if abs(value) < 1:
        return f"{value:.{digits}g}"
    before_point = math.floor(math.log10(abs(value))) + 1
    return f"{value:,.{max(0, digits - before_point)}f}"


def signed(value: float | None) -> str:
    """A difference."""
    return f"{'+' if value is not None and value > 0 else ''}{number(value)}"


def tick_text(value: float) -> str:
    """A round value without trailing zeros."""
    text = number(value, 6)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def ssim_text(value: float | None) -> str:
    """SSIM to five digits; what is not 1 is never rounded up to it."""
    if value is None:
        return NOTHING
    return "> 0.99999" if 0.999995 <= value < 1 else f"{value:.5f}"


def bounds_of(interval: Bounds) -> tuple[float, float] | None:
    """Low and high of an interval's plain data, or of two bounds."""
    if not interval:
        return None
    low, high = (interval["low"], interval["high"]) if isinstance(interval, Mapping) else interval
    return float(low), float(high)


def interval_text(interval: Bounds, show: Callable[[float], str] = number) -> str:
    """``[low, high]``."""
    bounds = bounds_of(interval)
    return NOTHING if bounds is None else f"[{show(bounds[0])}, {show(bounds[1])}]"


def commit_text(commit: Mapping[str, Any]) -> str:
    """The commit's first digits, and whether there were changes on top."""
    sha = commit.get("sha")
    if not sha:
        return "no commit"
    return f"{str(sha)[:SHA_DIGITS]}{' with uncommitted changes' if commit.get('dirty') else ''}"


def machine_text(results: ResultFile) -> str:
    """Processor or GPU and threads, in short."""
    machine = results.machine
    device = machine.get("gpu") or f"{machine.get('cpu')}, {machine.get('logical_cpus')} logical CPUs"
    return ", ".join(filter(None, (str(device), threads_text(results))))


def threads_text(results: ResultFile) -> str:
    """CPU threads of each system; nothing where it was left to them."""
    return {None: "", 1: "1 thread"}.get(results.threads, f"{results.threads} threads")


def breakable(text: str) -> Markup:
    """Text, such as a scenario's id, that may be broken after each slash."""
    return Markup("/<wbr>").join(text.split("/"))
