"""How long each stage of a request took, by the device's own clock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import sleep

from instantrt.device import Device, Event
from instantrt.device.ranges import named_range

POLL_S = 20e-6


class StageClock:
    """Marks stages with events on the device's stream, so that timing a stage never makes the host wait.

    A stage lasts from the moment the stream has done everything put on it before the stage to the moment it has done
    everything put on it during the stage. For stages of the host alone, with an idle stream, that is the host's time.
    A stage inside another one, such as loading a network in the middle of its stage, is not counted in that one.
    Events are kept and used again by the next request.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._events: list[Event] = []
        self._stages: list[tuple[str, int, list[int]]] = []  # name, its pair of events, those of stages inside it
        self._open: list[list[int]] = []  # of each stage under way, the pairs of stages inside it
        self._used = 0

    def restart(self) -> None:
        """Forget the stages so far."""
        self._stages.clear()
        self._used = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage; several of one name are added up. One that raises is not counted."""
        index, inside = self._used, list[int]()
        self._used += 1
        begin, end = self._pair(index)
        self._device.stream.record(begin)
        self._open.append(inside)
        try:
            with named_range(name):
                yield
        finally:
            self._open.pop()
        self._device.stream.record(end)
        self._stages.append((name, index, inside))
        if self._open:
            self._open[-1].append(index)

    def read_ms(self) -> dict[str, float]:
        """Milliseconds by stage, in the order in which they first ended. Waits for the last stage's end."""
        total: dict[str, float] = {}
        for name, index, inside in self._stages:
            total[name] = total.get(name, 0.0) + self._ms(index) - sum(map(self._ms, inside))
        return total

    def close(self) -> None:
        """Release the events; may be called more than once."""
        while self._events:
            self._events.pop().close()

    def _ms(self, index: int) -> float:
        begin, end = self._pair(index)
        while not end.is_done:
            sleep(POLL_S)
        return end.ms_since(begin)

    def _pair(self, index: int) -> tuple[Event, Event]:
        while len(self._events) < 2 * index + 2:
            self._events.append(self._device.event())
        return self._events[2 * index], self._events[2 * index + 1]
