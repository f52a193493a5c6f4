"""The denoise loops that are on the device together, as many as fit."""

from __future__ import annotations

from collections.abc import Callable

from instantrt.denoise import DenoiseLoop, LoopShape
from instantrt.errors import DeviceError, EngineError
from instantrt_serve.scheduler.policy import Lane
from instantrt_serve.worker.heap import trim_heap
from instantrt_serve.worker.log import log

WHOLE_LOOPS = 4  # that stay loaded where there are tracks: then only jobs that are alone need them
NO_ROOM = (DeviceError, EngineError, MemoryError)
"""What opening a lane raises when memory is short."""


class LaneLoops:
    """The loops of one lane: they work on the same slots, and each is loaded when it is used for the first time.

    Args:
        whole: has the whole device.
        track: has a part of the CPU's threads; None where there are no tracks.
    """

    def __init__(self, whole: DenoiseLoop, track: DenoiseLoop | None = None) -> None:
        self.shape = whole.shape
        self._whole, self._track = whole, track

    def on(self, *, track: bool) -> DenoiseLoop:
        """The loop on a track, or on the whole device.

        Raises:
            DeviceError, EngineError, MemoryError: there is no room for its networks.
        """
        loop = self._track if track else self._whole
        assert loop is not None, "the policy knows how many tracks there are"
        loop.load()
        return loop

    def is_loaded(self, *, track: bool) -> bool:
        """Whether :meth:`on` need load nothing."""
        loop = self._track if track else self._whole
        return loop is not None and loop.is_loaded

    @property
    def may_unload(self) -> bool:
        """Whether there is a loop on a track, and networks that it does not need."""
        return self._track is not None and self._whole.is_loaded

    def unload(self) -> None:
        """Release the networks of the loop that has the whole device; the slots stay as they are."""
        self._whole.unload()

    def close(self) -> None:
        """Close both; may be called more than once."""
        if self._track is not None:
            self._track.close()
        self._whole.close()


class Lanes:
    """Opens and closes lanes.

    Args:
        open_lane: makes the loops of a shape; none of them is loaded.
        bound: lanes at most; lowered when memory turns out to hold fewer.
    """

    def __init__(self, open_lane: Callable[[LoopShape], LaneLoops], bound: int) -> None:
        self.bound = bound
        self._open_lane = open_lane
        self._loops: dict[int, LaneLoops] = {}
        self._used: dict[int, int] = {}
        self._opened = self._turns = 0

    def lanes(self) -> tuple[Lane, ...]:
        """The open lanes as the policy sees them."""
        return tuple(Lane(number, loops.shape, self._used[number]) for number, loops in self._loops.items())

    def use(self, number: int, *, on_track: bool = False) -> DenoiseLoop:
        """The loop of a lane, which is used now."""
        self._turns += 1
        self._used[number] = self._turns
        if not self.is_loaded(number, on_track=on_track):
            self._unload_some()
        return self._loops[number].on(track=on_track)

    def is_loaded(self, number: int, *, on_track: bool) -> bool:
        """Whether a lane's loop is there already."""
        return self._loops[number].is_loaded(track=on_track)

    def open(self, shape: LoopShape, closes: int | None = None, *, on_track: bool = False) -> int | None:
        """A new lane's number; None if there is no room for one more, which lowers the bound.

        Args:
            shape: of the new lane.
            closes: a lane that is closed first.
            on_track: which of its loops is loaded.

        Raises:
            DeviceError, EngineError: there is no room although no other lane is open.
        """
        if closes is not None:
            self.close_lane(closes)
        try:
            loops = self._open_lane(shape)
            try:
                loops.on(track=on_track)
            except NO_ROOM:
                loops.close()
                raise
        except NO_ROOM as error:
            if not self._loops:
                raise
            self.bound = len(self._loops)
            log("lane_refused", error=type(error).__name__, lanes=self.bound)
            return None
        return self.adopt(loops)

    def adopt(self, loops: LaneLoops) -> int:
        """Take loops as a new lane; its number."""
        self._opened += 1
        self._loops[self._opened], self._used[self._opened] = loops, 0
        return self._opened

    def _unload_some(self) -> None:
        """Of loops that have the whole device beside one on a track, only the few that were used last stay loaded."""
        kept = sorted((n for n, loops in self._loops.items() if loops.may_unload), key=lambda n: self._used[n])
        for number in kept[: max(0, len(kept) + 1 - WHOLE_LOOPS)]:
            self._loops[number].unload()
            trim_heap()

    def close_lane(self, number: int) -> None:
        """Close one lane."""
        del self._used[number]
        self._loops.pop(number).close()
        trim_heap()

    def close(self) -> None:
        """Close all lanes; may be called more than once."""
        for number in list(self._loops):
            self.close_lane(number)
