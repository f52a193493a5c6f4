"""Tracks: parts of the CPU's threads, on each of which a lane works beside the others, where that does more in all.

Threads that compute one network call together wait for each other after every operator. Those of different calls do
not, and lose less when another process takes a core for a moment.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass

import numpy as np

from instantrt.denoise import DenoiseLoop, SlotInputs
from instantrt.diagnosis import MADE_BY
from instantrt.errors import RequestError
from instantrt.targets import OPTIONS
from instantrt_serve.worker.lanes import LaneLoops
from instantrt_serve.worker.log import log
from instantrt_serve.worker.maker import PictureMaker
from instantrt_serve.worker.measure import (
    LEAST_GAIN,
    MEMORY_SHARE,
    Measured,
    best_rate,
    free_bytes,
    least_ms,
    nobodys_inputs,
    used_bytes,
)

WHOLE = 0  # instead of a number of slots: the loop on the whole device
TRACKS = 2  # unless told: a job beside others then takes at most twice as long as on all threads


@dataclass(frozen=True)
class Tracks:
    """How many there are, and what they do.

    Args:
        maker: the networks on the threads of one track.
        count: of tracks.
        costs: as :attr:`Measured.slot_costs`, of a call on a track while all of them work.
    """

    maker: PictureMaker
    count: int
    costs: dict[int, float]

    @property
    def rate(self) -> float:
        """As :attr:`Measured.rate`, on all tracks together."""
        return self.count * best_rate(self.costs)

    def lane(self, whole: DenoiseLoop) -> LaneLoops:
        """The loops of a lane, of which this is the one on the whole device; that on a track is not loaded yet."""
        return LaneLoops(whole, self.maker.open_loop(whole.shape, loaded=False, shared=whole))


def check_tracks(target: str, asked: int | None) -> None:
    """Raise :class:`RequestError` for tracks on a target that has no threads to part."""
    if asked is not None and asked > 1 and target in OPTIONS and "threads" not in OPTIONS[target]:
        raise RequestError(
            f"{target} has no tracks", found=f"{asked} tracks", hint="leave them out: they part the threads of a CPU"
        )


def find_tracks(
    whole: PictureMaker,
    measured: Measured,
    open_maker: Callable[[int], PictureMaker],
    threads: int,
    asked: int | None = None,
) -> Tracks | None:
    """Tracks, if with them more is done in all and each picture is the same, bit for bit; else None.

    Args:
        whole: the networks on all threads.
        measured: what they do.
        open_maker: opens the networks on so many threads.
        threads: of the whole.
        asked: take so many, whatever they do.
    """
    count = TRACKS if asked is None else asked
    if count == 1 or (asked is None and not _possible(whole, measured, threads)):
        return None
    with ExitStack() as opened:
        maker = opened.enter_context(closing(open_maker(max(1, threads // count))))
        costs, exact = _measure(whole, maker, measured, count)
        tracks = Tracks(maker, count, costs)
        log("tracks_measured", count=count, costs=str(costs), same_pictures=exact, rate=round(tracks.rate, 3))
        if asked is None and not (exact and tracks.rate >= LEAST_GAIN * measured.rate):
            return None
        opened.pop_all()
    return tracks


def _possible(whole: PictureMaker, measured: Measured, threads: int) -> bool:
    """Whether there are threads, lanes and memory for them: of all that is there now once more, and a loop for each."""
    return (
        "threads" in OPTIONS[whole.target.name]
        and min(threads, measured.lanes) >= TRACKS
        and 2 * used_bytes(whole.device) <= MEMORY_SHARE * free_bytes(whole.device)
    )


def _measure(whole: PictureMaker, maker: PictureMaker, measured: Measured, count: int) -> tuple[dict[int, float], bool]:
    """What calls cost on tracks, and whether they give the same pictures."""
    inputs, wholes = nobodys_inputs(maker), nobodys_inputs(whole)
    with ExitStack() as opened:
        sets = {
            slots: [opened.enter_context(closing(maker.open_loop(shape))) for _ in range(count)]
            for slots, shape in measured.shapes.items()
        }
        times_ms = least_ms({**sets, WHOLE: [measured.loop]}, inputs)
        latents = [slot for loops in sets.values() for loop in loops for slot in loop.latents()]
    expected = whole.latents(measured.loop, 0)
    exact = _same(inputs, wholes) and all(np.array_equal(slot, expected) for slot in latents)
    exact = exact and np.array_equal(maker.decode(expected), whole.decode(expected))
    unit_ms = times_ms.pop(WHOLE) / measured.slots
    return {slots: round(ms / unit_ms, 3) for slots, ms in times_ms.items()}, exact


def _same(inputs: SlotInputs, others: SlotInputs) -> bool:
    return all(np.array_equal(getattr(inputs, name), getattr(others, name)) for name in MADE_BY)
