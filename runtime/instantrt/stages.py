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
    Events are kept and used again by the next request.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._events: list[Event] = []
        self._stages: list[str] = []

    def restart(self) -> None:
        """Forget the stages so far."""
        self._stages.clear()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage; several of one name are added up. One that raises is not counted."""
        begin, end = self._pair(len(self._stages))
        self._device.stream.record(begin)
        with named_range(name):
            yield
        self._device.stream.record(end)
        self._stages.append(name)

    def read_ms(self) -> dict[str, float]:
        """Milliseconds by stage, in the order of their first appearance. Waits for the last stage's end."""
        total: dict[str, float] = {}
        for index, name in enumerate(self._stages):
            begin, end = self._pair(index)
            while not end.is_done:
                sleep(POLL_S)
            total[name] = total.get(name, 0.0) + end.ms_since(begin)
        return total

    def close(self) -> None:
        """Release the events; may be called more than once."""
        while self._events:
            self._events.pop().close()

    def _pair(self, index: int) -> tuple[Event, Event]:
        while len(self._events) < 2 * index + 2:
            self._events.append(self._device.event())
        return self._events[2 * index], self._events[2 * index + 1]
