"""Where buffers live and in what order work runs: the protocols that host memory and CUDA both fulfil."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Buffer", "Device", "Event", "Graph", "Stream"]

Array = npt.NDArray[Any]


class Buffer(Protocol):
    """A contiguous tensor on a device. Zero-filled when allocated."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        ...

    @property
    def address(self) -> int:
        """Address of the first element on its device; fixed for the buffer's life."""
        ...

    def at(self, *index: int) -> Buffer:
        """The contiguous part at these leading indices, sharing this buffer's memory."""
        ...

    def rows(self, count: int) -> Buffer:
        """The first ``count`` entries of the leading axis, sharing this buffer's memory."""
        ...

    def close(self) -> None:
        """Free the memory once the stream's work so far is done; may be called more than once. Parts free nothing."""
        ...


class Event(Protocol):
    """A point in a stream's work, with the time at which the stream reached it. May be recorded again."""

    @property
    def is_done(self) -> bool:
        """Whether the stream has reached the point where the event was last recorded. Never waits."""
        ...

    def ms_since(self, earlier: Event) -> float:
        """Milliseconds from ``earlier`` to this event; both must be done."""
        ...

    def close(self) -> None:
        """Release the event; may be called more than once."""
        ...


class Stream(Protocol):
    """Work in order. While a graph is being captured, submitted work is recorded and not run."""

    @property
    def handle(self) -> int:
        """The vendor's stream handle, for libraries that put work on it themselves; 0 on the host."""
        ...

    def submit(self, call: Callable[[], None]) -> None:
        """Run ``call`` after everything submitted before it."""
        ...

    def record(self, event: Event) -> None:
        """Mark the point after everything submitted before it."""
        ...


class Graph(Protocol):
    """Captured work that replays on the same buffers."""

    def launch(self) -> None:
        """Run everything captured once, in order, after what is on the stream already."""
        ...

    def close(self) -> None:
        """Release the graph; may be called more than once."""
        ...


class Device(Protocol):
    """Allocates, copies and captures."""

    @property
    def stream(self) -> Stream:
        """The one stream on which the device's work runs."""
        ...

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Buffer:
        """A zero-filled buffer."""
        ...

    def event(self) -> Event:
        """A new event that keeps time."""
        ...

    def upload(self, source: Array, destination: Buffer) -> None:
        """Host array to buffer on the stream; shapes and dtypes must agree. ``source`` may be reused at once."""
        ...

    def download(self, source: Buffer) -> Array:
        """A fresh host array with the buffer's contents, after everything on the stream. Waits for it."""
        ...

    def download_all(self, sources: Sequence[Buffer]) -> list[Array]:
        """Several downloads with one wait."""
        ...

    def copy(self, source: Buffer, destination: Buffer) -> None:
        """Buffer to buffer on the stream."""
        ...

    def capture(self, work: Callable[[], None]) -> Graph:
        """Record what ``work`` puts on the stream, without running it."""
        ...

    def close(self) -> None:
        """Free everything; may be called more than once."""
        ...
