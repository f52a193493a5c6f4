"""Where buffers live and in what order work runs: the protocols that host memory and CUDA both fulfil."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Buffer", "Device", "Graph", "Stream"]

Array = npt.NDArray[Any]


class Buffer(Protocol):
    """A contiguous tensor on a device. Zero-filled when allocated; freed by its device."""

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


class Stream(Protocol):
    """Work in order. While a graph is being captured, submitted work is recorded and not run."""

    def submit(self, call: Callable[[], None]) -> None:
        """Run ``call`` after everything submitted before it."""
        ...


class Graph(Protocol):
    """Captured work that replays on the same buffers."""

    def launch(self) -> None:
        """Run everything captured once, in order."""
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

    def upload(self, source: Array, destination: Buffer) -> None:
        """Host array to buffer; shapes and dtypes must agree."""
        ...

    def download(self, source: Buffer) -> Array:
        """A fresh host array with the buffer's contents."""
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
