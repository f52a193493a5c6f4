"""Small pictures and the files that people have them in."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

Picture = npt.NDArray[np.uint8]


def picture(width: int = 80, height: int = 60) -> Picture:
    """Smooth, so that JPEG keeps it, and different in every quarter; u8 RGB [height, width, 3]."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], -1).astype(np.uint8)


def noise(width: int = 200, height: int = 200) -> Picture:
    """Large in every file format; u8 RGB [height, width, 3]."""
    return np.random.default_rng(5).integers(0, 256, (height, width, 3), np.uint8)


def encoded(image: Image.Image | Picture, kind: str, **options: object) -> bytes:
    """An image file of format ``kind``."""
    file = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, rows: bytes, *, bits: int = 8, colour: int = 2) -> bytes:
    """A PNG of raw ``rows``, each with its filter byte; colour 0 is grey, 2 RGB, 6 RGBA. Pillow writes only some."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def flat_png(width: int, height: int, *, bits: int = 8, colour: int = 2) -> bytes:
    """One colour: a small file, whatever its size in pixels."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    row = b"\0" + b"\x60" * (width * channels * bits // 8)
    return png(width, height, row * height, bits=bits, colour=colour)


def odd_exif(orientation: int = 1) -> bytes:
    """EXIF with an orientation, and a tag whose value lies beyond the end: Pillow warns of it."""
    entries = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0) + struct.pack("<HHII", 0x010F, 2, 400, 9000)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + struct.pack("<I", 0)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
