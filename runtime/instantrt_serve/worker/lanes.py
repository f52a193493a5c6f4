"""The denoise loops that are on the device together, as many as fit."""

from __future__ import annotations

from collections.abc import Callable

from instantrt.denoise import DenoiseLoop, LoopShape
from instantrt.errors import DeviceError, EngineError
from instantrt_serve.scheduler.policy import Lane
from instantrt_serve.worker.heap import trim_heap
from instantrt_serve.worker.log import log

NO_ROOM = (DeviceError, EngineError, MemoryError)
"""What opening a lane raises when memory is short."""


class Lanes:
    """Opens and closes denoise loops.

    Args:
        open_loop: makes the loop of a shape.
        bound: lanes at most; lowered when memory turns out to hold fewer.
    """

    def __init__(self, open_loop: Callable[[LoopShape], DenoiseLoop], bound: int) -> None:
        self.bound = bound
        self._open_loop = open_loop
        self._loops: dict[int, DenoiseLoop] = {}
        self._used: dict[int, int] = {}
        self._opened = self._turns = 0

    def lanes(self) -> tuple[Lane, ...]:
        """The open lanes as the policy sees them."""
        return tuple(Lane(number, loop.shape, self._used[number]) for number, loop in self._loops.items())

    def use(self, number: int) -> DenoiseLoop:
        """The loop of a lane, which is used now."""
        self._turns += 1
        self._used[number] = self._turns
        return self._loops[number]

    def open(self, shape: LoopShape, closes: int | None = None) -> int | None:
        """A new lane's number; None if there is no room for one more, which lowers the bound.

        Args:
            shape: of the new lane.
            closes: a lane that is closed first.

        Raises:
            DeviceError, EngineError: there is no room although no other lane is open.
        """
        if closes is not None:
            self.close_lane(closes)
        try:
            loop = self._open_loop(shape)
        except NO_ROOM as error:
            if not self._loops:
                raise
            self.bound = len(self._loops)
            log("lane_refused", error=type(error).__name__, lanes=self.bound)
            return None
        return self.adopt(loop)

    def adopt(self, loop: DenoiseLoop) -> int:
        """Take a loop as a new lane; its number."""
        self._opened += 1
        self._loops[self._opened], self._used[self._opened] = loop, 0
        return self._opened

    def close_lane(self, number: int) -> None:
        """Close one lane."""
        del self._used[number]
        self._loops.pop(number).close()
        trim_heap()

    def close(self) -> None:
        """Close all lanes; may be called more than once."""
        for number in list(self._loops):
            self.close_lane(number)
