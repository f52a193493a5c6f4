"""Messages on a byte stream: each is one MessagePack object behind its length in four bytes, little-endian."""

from __future__ import annotations

import asyncio
import struct
from io import RawIOBase

import msgspec

from instantrt_serve.messages import FromWorker, ToWorker

LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 1 << 30  # far beyond any message; a length above it is not one

_encoder = msgspec.msgpack.Encoder()
decode_to_worker = msgspec.msgpack.Decoder(ToWorker).decode
decode_from_worker = msgspec.msgpack.Decoder(FromWorker).decode


class FrameError(ValueError):
    """The stream holds something that is no frame: the other side is not what it should be."""


def frame(message: ToWorker | FromWorker) -> bytes:
    """A message as it goes over the stream."""
    body = _encoder.encode(message)
    return LENGTH.pack(len(body)) + body


def read_frame(stream: RawIOBase) -> bytes | None:
    """The next message's bytes; None at the end of the stream, also in the middle of a message."""
    head = _read(stream, LENGTH.size)
    return None if head is None else _read(stream, _size(head))


def _read(stream: RawIOBase, size: int) -> bytes | None:
    """So many bytes. From a stream without a buffer: its lock would be held while a thread waits, also at exit."""
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        count = stream.readinto(view[filled:])
        if not count:
            return None
        filled += count
    return bytes(data)


async def read_frame_async(stream: asyncio.StreamReader) -> bytes | None:
    """:func:`read_frame` for asyncio."""
    try:
        return await stream.readexactly(_size(await stream.readexactly(LENGTH.size)))
    except asyncio.IncompleteReadError:
        return None


def _size(head: bytes) -> int:
    size: int = LENGTH.unpack(head)[0]
    if size > MAX_FRAME_BYTES:
        raise FrameError(f"a frame of {size} bytes")
    return size
