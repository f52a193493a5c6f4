"""The host as a device: buffers are numpy arrays, a stream runs at once, a graph is the recorded list of calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from threading import local
from time import perf_counter_ns
from typing import Any

import numpy as np

from instantrt.device import Array, Buffer, Event

Call = Callable[[], None]


class HostBuffer:
    """A C-contiguous numpy array behind the :class:`instantrt.device.Buffer` protocol."""

    def __init__(self, array: Array) -> None:
        if not array.flags.c_contiguous:
            raise ValueError(f"a buffer must be contiguous, got strides {array.strides} for shape {array.shape}")
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the axes."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self.array.dtype

    @property
    def address(self) -> int:
        """Address of the first element in host memory."""
        return int(self.array.ctypes.data)

    def at(self, *index: int) -> HostBuffer:
        """The contiguous part at these leading indices."""
        key: tuple[Any, ...] = (*index, ...)  # the ellipsis makes even a single element an array, not a scalar
        return HostBuffer(self.array[key])

    def rows(self, count: int) -> HostBuffer:
        """The first ``count`` entries of the leading axis."""
        return HostBuffer(self.array[:count])

    def close(self) -> None:
        """Nothing to free: the array goes with its last reference."""


class HostEvent:
    """The time at which the host came by."""

    def __init__(self) -> None:
        self.time_ns: int | None = None

    def take_time(self) -> None:
        """The host is here now."""
        self.time_ns = perf_counter_ns()

    @property
    def is_done(self) -> bool:
        """True once recorded: the host's work runs at once."""
        return self.time_ns is not None

    def ms_since(self, earlier: Event) -> float:
        """Milliseconds from ``earlier`` to this event."""
        if not isinstance(earlier, HostEvent) or earlier.time_ns is None or self.time_ns is None:
            raise ValueError("both events must be the host's and recorded")
        return (self.time_ns - earlier.time_ns) / 1e6

    def close(self) -> None:
        """Nothing to release."""


class HostStream(local):
    """Runs what is submitted at once, or records it while a graph is being captured.

    A capture records what its own thread submits; what other threads submit meanwhile runs.
    """

    handle = 0

    def __init__(self) -> None:
        self._recording: list[Call] | None = None

    def submit(self, call: Call) -> None:
        """Run ``call`` now, or record it."""
        if self._recording is None:
            call()
        else:
            self._recording.append(call)

    def record(self, event: Event) -> None:
        """Take the time now, or at each launch of the graph being captured."""
        if not isinstance(event, HostEvent):
            raise TypeError(f"expected an event of the host device, got {type(event).__name__}")
        self.submit(event.take_time)

    def capture(self, work: Call) -> tuple[Call, ...]:
        """The calls that ``work`` submits, none of them run."""
        if self._recording is not None:
            raise RuntimeError("a capture is already under way on this stream")
        self._recording = []
        try:
            work()
            return tuple(self._recording)
        finally:
            self._recording = None


class HostGraph:
    """A recorded list of calls."""

    def __init__(self, calls: tuple[Call, ...]) -> None:
        self._calls = calls

    def launch(self) -> None:
        """Run the calls in the order in which they were recorded."""
        for call in self._calls:
            call()

    def close(self) -> None:
        """Forget the calls."""
        self._calls = ()


class HostDevice:
    """Host memory and the calling thread."""

    def __init__(self) -> None:
        self.stream = HostStream()

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> HostBuffer:
        """A zero-filled buffer."""
        return HostBuffer(np.zeros(shape, dtype))

    def event(self) -> HostEvent:
        """A new event."""
        return HostEvent()

    def upload(self, source: Array, destination: Buffer) -> None:
        """Host array to buffer; shapes and dtypes must agree."""
        target = _array(destination)
        if source.shape != target.shape or source.dtype != target.dtype:
            raise ValueError(
                f"cannot upload {source.dtype}{list(source.shape)} into {target.dtype}{list(target.shape)}"
            )
        np.copyto(target, source)

    def download(self, source: Buffer) -> Array:
        """A fresh array with the buffer's contents."""
        return _array(source).copy()

    def download_all(self, sources: Sequence[Buffer]) -> list[Array]:
        """Fresh arrays with the buffers' contents."""
        return [self.download(source) for source in sources]

    def copy(self, source: Buffer, destination: Buffer) -> None:
        """Buffer to buffer on the stream."""
        target, array = _array(destination), _array(source)
        self.stream.submit(partial(np.copyto, target, array))

    def capture(self, work: Call) -> HostGraph:
        """Record what ``work`` puts on the stream, without running it."""
        return HostGraph(self.stream.capture(work))

    def close(self) -> None:
        """Nothing to free: numpy arrays go with their last reference."""


def _array(buffer: Buffer) -> Array:
    if not isinstance(buffer, HostBuffer):
        raise TypeError(f"expected a buffer of the host device, got {type(buffer).__name__}")
    return buffer.array
