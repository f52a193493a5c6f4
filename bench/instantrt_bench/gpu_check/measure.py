"""What is told of many times and of two arrays; times of work on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Work = Callable[[], Any]


def spread(times: Sequence[float]) -> dict[str, float]:
    """Median, tenth and ninetieth percentile, and how many there were."""
    low, middle, high = np.percentile(times, (10, 50, 90))
    return {"median": float(middle), "p10": float(low), "p90": float(high), "count": len(times)}


def median(times: Sequence[float]) -> float:
    """The middle one."""
    return float(np.median(times))


def relative_error(found: Any, expected: Any) -> float:
    """||found - expected|| / ||expected||; NaN if one of them has one."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def times_ms(work: Work, calls: int, warm_up: int, device: torch.device) -> list[float]:
    """Milliseconds from the end of one call to the end of the next, as torch's current stream sees them.

    Calls follow each other without waiting, so that a time is the larger one of the GPU's and the host's.
    """
    import torch

    for _ in range(warm_up):
        work()
    if device.type != "cuda":
        return [_host_ms(work) for _ in range(calls)]
    torch.cuda.synchronize(device)
    ends = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    ends[0].record()
    for end in ends[1:]:
        work()
        end.record()
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) for before, after in pairwise(ends)]


def _host_ms(work: Work) -> float:
    start = perf_counter()
    work()
    return (perf_counter() - start) * 1e3
