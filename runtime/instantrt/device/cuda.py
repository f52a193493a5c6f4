"""An NVIDIA GPU as a device: pooled memory, one stream, page-locked staging, captured graphs. All through cuda.core.

One thread at a time may use a device; it need not always be the same thread. Several devices may share a GPU: each has
its own stream, and work of different devices is not ordered.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from math import prod
from typing import Any
from warnings import warn
from weakref import WeakSet

import numpy as np

from instantrt.device import Array, Buffer, Event
from instantrt.device.check import CURES, CUDAError, call, device_error, driver, driver_errors
from instantrt.device.pinned import DownloadStaging, UploadStaging
from instantrt.device.properties import GpuProperties, open_gpu
from instantrt.errors import DeviceError

from cuda import core  # isort: skip  (after device.check, which says how to install it)

__all__ = ["CudaBuffer", "CudaDevice", "CudaEvent", "CudaGraph", "CudaStream"]

Call = Callable[[], None]

STAGING_BYTES = 16 << 20  # for uploads; larger ones go through it in pieces


class CudaDevice:
    """One GPU, with a stream of its own.

    Args:
        ordinal: which GPU, as nvidia-smi counts them among the visible ones.
        staging_bytes: page-locked host memory for uploads.
        kept_bytes: freed memory that stays with the device for its next buffers (the pool's release threshold). The
            rest goes back to the GPU whenever the stream is waited for, so that TensorRT, whose weights come from
            elsewhere, can have it; buffers are allocated only for new shapes, never in a loop.

    Raises:
        DeviceError: no driver, no such GPU, or no memory for the staging.
    """

    def __init__(self, ordinal: int = 0, *, staging_bytes: int = STAGING_BYTES, kept_bytes: int = 0) -> None:
        self._closing: ExitStack | None = None
        self._core = open_gpu(ordinal)
        self.ordinal = ordinal
        self._owned: WeakSet[CudaBuffer | CudaEvent | CudaGraph] = WeakSet()
        with ExitStack() as opened:
            self.make_current()
            with driver_errors(f"creating a stream on GPU {ordinal}"):
                self._raw = self._core.create_stream()
            opened.callback(self._raw.close)
            with driver_errors(f"creating a memory pool on GPU {ordinal}"):
                self._pool = core.DeviceMemoryResource(ordinal, core.DeviceMemoryResourceOptions())
            opened.callback(self._pool.close)
            _keep_freed(self._pool, kept_bytes)
            self._downloads = DownloadStaging(self._raw)
            events = (_new_event(self._core), _new_event(self._core))
            self._uploads = UploadStaging(self._raw, events, staging_bytes)
            self._closing = opened.pop_all()
        self.stream = CudaStream(self._raw, self._core.set_current)

    @property
    def properties(self) -> GpuProperties:
        """The GPU's name, compute capability and number of multiprocessors."""
        return GpuProperties.of(self._core)

    def memory_bytes(self) -> tuple[int, int]:
        """Free and total memory of the GPU."""
        self.make_current()
        code, free, total = driver.cuMemGetInfo()
        call("asking for the free memory", code)
        return int(free), int(total)

    def make_current(self) -> None:
        """Make its GPU the calling thread's: a property of the thread, which another library may have changed.

        The device's own methods do; this is for libraries that work on the current GPU.
        """
        self._core.set_current()

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> CudaBuffer:
        """A zero-filled buffer.

        Raises:
            DeviceError: not enough memory.
            RuntimeError: a capture is under way.
        """
        self._begin("allocate")
        nbytes = max(prod(shape) * dtype.itemsize, 1)
        with self._allocation_errors(nbytes):
            memory = self._pool.allocate(nbytes, stream=self._raw)
            try:
                memory.fill(0, stream=self._raw)
            except BaseException:
                memory.close()
                raise
        buffer = CudaBuffer(memory, shape, dtype)
        self._owned.add(buffer)
        return buffer

    def event(self) -> CudaEvent:
        """A new event that keeps time."""
        self.make_current()
        event = CudaEvent(_new_event(self._core, timing=True), self._core.set_current)
        self._owned.add(event)
        return event

    def upload(self, source: Array, destination: Buffer) -> None:
        """Host array to buffer on the stream; shapes and dtypes must agree. ``source`` may be reused at once."""
        target = _buffer(destination)
        if source.shape != target.shape or source.dtype != target.dtype:
            raise ValueError(
                f"cannot upload {source.dtype}{list(source.shape)} into {target.dtype}{list(target.shape)}"
            )
        self._begin("upload")
        with driver_errors("an upload"):
            self._uploads.copy(np.ascontiguousarray(source).reshape(-1).view(np.uint8), target.core_buffer())

    def download(self, source: Buffer) -> Array:
        """A fresh host array with the buffer's contents, after everything on the stream. Waits for it."""
        return self.download_all([source])[0]

    def download_all(self, sources: Sequence[Buffer]) -> list[Array]:
        """Several downloads with one wait."""
        buffers = [_buffer(source) for source in sources]
        self._begin("download")
        with driver_errors("a download, or work before it,"):
            fetched = self._downloads.fetch([buffer.core_buffer() for buffer in buffers])
        return [
            data[: buffer.nbytes].copy().view(buffer.dtype).reshape(buffer.shape)
            for data, buffer in zip(fetched, buffers, strict=True)
        ]

    def copy(self, source: Buffer, destination: Buffer) -> None:
        """Buffer to buffer on the stream; sizes must agree."""
        from_, to = _buffer(source), _buffer(destination)
        if from_.nbytes != to.nbytes:
            raise ValueError(f"cannot copy {from_.nbytes} bytes into {to.nbytes}")
        self.make_current()
        with driver_errors("a copy between buffers"):
            to.core_buffer().copy_from(from_.core_buffer(), stream=self._raw)

    def capture(self, work: Call) -> CudaGraph:
        """Record what ``work`` puts on the stream, without running it.

        The graph holds addresses: what ``work`` used must stay as it is until the graph is closed.

        Raises:
            DeviceError: ``work`` did what a capture does not allow, or the graph does not fit.
        """
        self._begin("capture")
        with driver_errors("capturing a graph"):
            builder = self._raw.create_graph_builder()
        try:
            with driver_errors("capturing a graph"):
                # Thread-local: what this thread may not do meanwhile is an error, what others do is not our affair.
                builder.begin_building("thread_local")
            with self.stream.capturing(builder):
                work()
            graph = CudaGraph(_executable(builder), self._raw, self._core.set_current)
        finally:
            with suppress(CUDAError):  # closing a broken capture reports its error once more
                builder.close()
        self._owned.add(graph)
        graph.upload()
        return graph

    def synchronize(self) -> None:
        """Wait for everything on the stream.

        Raises:
            DeviceError: some of it failed.
        """
        self.make_current()
        with driver_errors("work on the GPU"):
            self._raw.sync()

    def close(self) -> None:
        """Wait, then free everything that came from this device; may be called more than once.

        A failure of the work that it waits for is not raised here: who reads a result is told of it.
        """
        if self._closing is None:
            return
        self._core.set_current()
        with suppress(CUDAError):
            self._raw.sync()
        for owned in list(self._owned):
            owned.close()
        self._uploads.close()
        self._downloads.close()
        with suppress(CUDAError):
            self._raw.sync()  # frees are ordered on the stream: let them run
        self._closing.close()
        self._closing = None

    def __del__(self) -> None:
        if self._closing is not None:
            warn(f"a CudaDevice on GPU {self.ordinal} was not closed", ResourceWarning, stacklevel=2)
            self.close()

    def __enter__(self) -> CudaDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, verb: str) -> None:
        if self.stream.is_capturing:
            raise RuntimeError(f"cannot {verb} while a capture is under way on this stream")
        self.make_current()

    @contextmanager
    def _allocation_errors(self, nbytes: int) -> Iterator[None]:
        try:
            yield
        except CUDAError as error:
            found = device_error(f"allocating {nbytes / 2**20:.1f} MiB on GPU {self.ordinal}", error)
            code, free, total = driver.cuMemGetInfo()
            if code == driver.CUresult.CUDA_SUCCESS and found.driver_code == "CUDA_ERROR_OUT_OF_MEMORY":
                room = f"{free / 2**20:.0f} of {total / 2**20:.0f} MiB free; {found.found}"
                raise DeviceError(found.what, found=room, hint=found.hint, driver_code=found.driver_code) from error
            raise found from error


class CudaBuffer:
    """A tensor in a GPU's memory, or a part of one. Fresh from :meth:`CudaDevice.allocate` it owns its memory.

    Args:
        memory: the ``cuda.core.Buffer`` in which it lies.
        shape: sizes of the axes.
        dtype: element type.
        offset: bytes from the start of ``memory``.
        owner: the buffer of which this is a part.
    """

    def __init__(
        self,
        memory: Any,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        offset: int = 0,
        owner: CudaBuffer | None = None,
    ) -> None:
        self._memory, self._offset, self._owner = memory, offset, owner
        self.shape, self.dtype = shape, dtype
        self.nbytes = prod(shape) * dtype.itemsize
        self._address = int(memory.handle) + offset

    @property
    def address(self) -> int:
        """Address of the first element on the GPU."""
        self._check_open()
        return self._address

    def at(self, *index: int) -> CudaBuffer:
        """The contiguous part at these leading indices."""
        if len(index) > len(self.shape) or any(not 0 <= i < n for i, n in zip(index, self.shape, strict=False)):
            raise IndexError(f"index {list(index)} is outside {list(self.shape)}")
        offset, step = 0, self.nbytes
        for i, n in zip(index, self.shape, strict=False):
            step //= n
            offset += i * step
        return self._part(self.shape[len(index) :], offset)

    def rows(self, count: int) -> CudaBuffer:
        """The first ``count`` entries of the leading axis."""
        if not self.shape or not 0 <= count <= self.shape[0]:
            raise IndexError(f"{count} rows of {list(self.shape)}")
        return self._part((count, *self.shape[1:]), 0)

    def core_buffer(self) -> Any:
        """A ``cuda.core.Buffer`` of exactly this tensor, for copies."""
        self._check_open()
        return core.Buffer.from_handle(self._address, self.nbytes, owner=self)

    def close(self) -> None:
        """Free the memory once the stream's work so far is done; may be called more than once. Parts free nothing."""
        if self._owner is None:
            self._memory.close()

    def _part(self, shape: tuple[int, ...], offset: int) -> CudaBuffer:
        self._check_open()
        return CudaBuffer(self._memory, shape, self.dtype, self._offset + offset, self._owner or self)

    def _check_open(self) -> None:
        if not self._memory.handle:
            raise ValueError("the buffer is closed")


class CudaEvent:
    """A point in the stream's work with the time at which the GPU reached it.

    Args:
        raw: the ``cuda.core.Event``.
        activate: makes its GPU the calling thread's.
    """

    def __init__(self, raw: Any, activate: Call) -> None:
        self.raw, self._activate = raw, activate
        self.is_recorded = False

    @property
    def is_done(self) -> bool:
        """Whether the stream has reached the point where the event was last recorded. Never waits."""
        if not self.is_recorded:
            return False
        self._activate()
        try:
            return bool(self.raw.is_done)
        except CUDAError as error:
            raise device_error("work on the GPU", error) from error

    def ms_since(self, earlier: Event) -> float:
        """Milliseconds from ``earlier`` to this event; both must be done."""
        if not isinstance(earlier, CudaEvent) or not earlier.is_done or not self.is_done:
            raise ValueError("both events must be a GPU's and done")
        with driver_errors("reading the time between two events"):
            return float(self.raw - earlier.raw)

    def close(self) -> None:
        """Release the event; may be called more than once."""
        self.raw.close()


class CudaStream:
    """Work on one GPU in order.

    Args:
        raw: the ``cuda.core.Stream``.
        activate: makes its GPU the calling thread's.
    """

    def __init__(self, raw: Any, activate: Call) -> None:
        self._raw, self._activate = raw, activate
        self._builder: Any = None

    @property
    def handle(self) -> int:
        """The ``CUstream``."""
        return int(self._raw.handle)

    @property
    def is_capturing(self) -> bool:
        """Whether submitted work is recorded instead of run."""
        return self._builder is not None

    def submit(self, call: Call) -> None:
        """Run ``call`` on the host after everything submitted before it. It must not use the GPU, nor raise."""
        self._activate()
        with driver_errors("putting a host function on the stream"):
            if self._builder is not None:
                self._builder.callback(call)
            else:
                _launch_host_function(self._raw, call)

    def record(self, event: Event) -> None:
        """Mark the point after everything submitted before it; not possible inside a capture."""
        if not isinstance(event, CudaEvent):
            raise TypeError(f"expected an event of a GPU, got {type(event).__name__}")
        if self.is_capturing:
            raise RuntimeError("an event with a time cannot be recorded while a capture is under way on this stream")
        self._activate()
        try:
            self._raw.record(event.raw)
        except CUDAError as error:
            raise device_error("recording an event", error) from error
        event.is_recorded = True

    @contextmanager
    def capturing(self, builder: Any) -> Iterator[None]:
        """Work submitted inside goes into ``builder``, a ``cuda.core`` graph builder that is building."""
        self._builder = builder
        try:
            yield
        finally:
            self._builder = None


class CudaGraph:
    """A captured piece of the stream's work.

    Args:
        raw: the ``cuda.core`` executable graph.
        stream: the ``cuda.core.Stream`` on which it is launched.
        activate: makes its GPU the calling thread's.
    """

    def __init__(self, raw: Any, stream: Any, activate: Call) -> None:
        self._raw, self._stream, self._activate = raw, stream, activate

    def upload(self) -> None:
        """Send the graph to the GPU, so that the first launch is like the others."""
        with driver_errors("uploading a graph"):
            self._raw.upload(self._stream)

    def launch(self) -> None:
        """Run everything captured once, in order, after what is on the stream already. Does not wait.

        Raises:
            DeviceError: the driver refused, or earlier work failed.
        """
        self._activate()
        try:
            self._raw.launch(self._stream)
        except CUDAError as error:
            raise device_error("launching a graph", error) from error

    def close(self) -> None:
        """Release the graph, launches under way still end; may be called more than once."""
        self._raw.close()


def _keep_freed(pool: Any, nbytes: int) -> None:
    threshold = driver.CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
    (code,) = driver.cuMemPoolSetAttribute(pool.handle, threshold, driver.cuuint64_t(nbytes))
    call("setting how much freed memory a pool keeps", code)


def _new_event(device: Any, *, timing: bool = False) -> Any:
    try:
        return device.create_event(core.EventOptions(timing_enabled=timing))
    except RuntimeError as error:  # cuda.core keeps the driver's reason to itself here
        raise DeviceError(
            "creating an event failed",
            found=str(error),
            hint="see nvidia-smi for free GPU memory, and earlier errors of this process for a lost context",
        ) from error


def _executable(builder: Any) -> Any:
    """The graph of a builder whose capture is over."""
    broken = "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    try:
        with driver_errors("capturing a graph"):
            return builder.end_building().complete()
    except RuntimeError as error:  # what cuda.core says of a capture that something inside has broken
        raise DeviceError(
            "capturing a graph failed", found=str(error), hint=CURES[broken], driver_code=broken
        ) from error


def _buffer(buffer: Buffer) -> CudaBuffer:
    if not isinstance(buffer, CudaBuffer):
        raise TypeError(f"expected a buffer of a CUDA device, got {type(buffer).__name__}")
    return buffer


# ---- host functions outside a capture: each runs once, and is kept here until then -----------------------

_waiting: dict[int, Call] = {}
_keys = count(1)


def _run_waiting(key: int) -> None:
    _waiting.pop(key)()


_RUN_WAITING = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_run_waiting)


def _launch_host_function(stream: Any, call_: Call) -> None:
    key = next(_keys)
    _waiting[key] = call_
    function = driver.CUhostFn(ctypes.cast(_RUN_WAITING, ctypes.c_void_p).value)
    (code,) = driver.cuLaunchHostFunc(stream.handle, function, key)
    if code != driver.CUresult.CUDA_SUCCESS:
        del _waiting[key]
    call("putting a host function on the stream", code)
