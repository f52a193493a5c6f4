"""Page-locked host memory: what the GPU copies from and to without the driver's own staging."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
from cuda import core

from instantrt.device.check import call, driver

ALIGNMENT = 256  # bytes; pieces of a block start here, as the GPU's copy engines like it

Bytes = npt.NDArray[np.uint8]


class PinnedBlock:
    """Page-locked memory with a numpy view of it.

    Args:
        nbytes: its size.
    """

    def __init__(self, nbytes: int) -> None:
        # cuda.core's own resources (1.2) do not do the same. LegacyPinnedMemoryResource calls the same two functions,
        # but frees only after a wait that succeeds: after a failure on the GPU its memory stays locked.
        # PinnedMemoryResource takes from a pool, which not every GPU and driver has for host memory.
        code, self.address = driver.cuMemAllocHost(nbytes)
        call(f"allocating {nbytes} bytes of page-locked memory", code)
        self.bytes: Bytes = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(self.address))

    def piece(self, offset: int, nbytes: int) -> Any:
        """A ``cuda.core.Buffer`` of a piece of it, for copies."""
        return core.Buffer.from_handle(self.address + offset, nbytes, owner=self)

    def close(self) -> None:
        """Free it; no copy may be under way. May be called more than once."""
        if self.address:
            driver.cuMemFreeHost(self.address)
            self.address = 0


class UploadStaging:
    """Stages uploads: the source may be reused as soon as :meth:`copy` returns, and the host rarely waits.

    Two halves take turns. A half is written again only after the copies from it have run, which an event tells.

    Args:
        stream: the ``cuda.core.Stream`` on which the copies run.
        copied: a ``cuda.core.Event`` for each half, its own from now on.
        nbytes: size of both halves together.
    """

    def __init__(self, stream: Any, copied: tuple[Any, Any], nbytes: int) -> None:
        self._stream, self._copied = stream, copied
        self._half_bytes = nbytes // 2
        self._block = PinnedBlock(2 * self._half_bytes)
        self._half, self._filled = 0, 0

    def copy(self, source: Bytes, destination: Any) -> None:
        """Put copies of ``source`` into ``destination``, a ``cuda.core.Buffer`` of the same size, on the stream."""
        done = 0
        while done < len(source):
            if self._filled >= self._half_bytes:
                self._switch_halves()
            nbytes = min(len(source) - done, self._half_bytes - self._filled)
            start = self._half * self._half_bytes + self._filled
            self._block.bytes[start : start + nbytes] = source[done : done + nbytes]
            target = core.Buffer.from_handle(int(destination.handle) + done, nbytes, owner=destination)
            target.copy_from(self._block.piece(start, nbytes), stream=self._stream)
            self._filled += -(-nbytes // ALIGNMENT) * ALIGNMENT
            done += nbytes

    def close(self) -> None:
        """Free it; the stream must be idle. May be called more than once."""
        for event in self._copied:
            event.close()
        self._block.close()

    def _switch_halves(self) -> None:
        self._stream.record(self._copied[self._half])
        self._half, self._filled = 1 - self._half, 0
        self._copied[self._half].sync()


class DownloadStaging:
    """Where downloads arrive: one block as large as the largest download so far.

    Args:
        stream: the ``cuda.core.Stream`` on which the copies run.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._block: PinnedBlock | None = None

    def fetch(self, sources: list[Any]) -> list[Bytes]:
        """Views of the contents of ``sources``, ``cuda.core.Buffer`` objects, valid until the next call. Waits once."""
        offsets = np.cumsum([0, *(-(-source.size // ALIGNMENT) * ALIGNMENT for source in sources)])
        block = self._at_least(int(offsets[-1]))
        for source, offset in zip(sources, offsets, strict=False):
            block.piece(int(offset), source.size).copy_from(source, stream=self._stream)
        self._stream.sync()
        return [block.bytes[offset : offset + source.size] for source, offset in zip(sources, offsets, strict=False)]

    def close(self) -> None:
        """Free it; the stream must be idle. May be called more than once."""
        if self._block is not None:
            self._block.close()
            self._block = None

    def _at_least(self, nbytes: int) -> PinnedBlock:
        if self._block is None or len(self._block.bytes) < nbytes:
            self.close()
            self._block = PinnedBlock(1 << max(nbytes - 1, 4095).bit_length())
        return self._block
