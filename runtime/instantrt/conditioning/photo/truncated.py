"""JPEG files that lack their last bytes: how much of the picture is missing."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import numpy as np
from PIL import Image

END_OF_IMAGE = b"\xff\xd9"
NO_DATA = 128  # what a JPEG decoder leaves where it had no data, in every channel; 127 where channels are inverted

_START_OF_SCAN = 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # the markers that list the components
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
_MARKER_AFTER_SCAN = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_COEFFICIENTS = 64


def missing_rows(image: Image.Image) -> int:
    """Rows without any data at the bottom of a JPEG that was decoded up to where its data ends."""
    pixels = np.asarray(image)
    rows = pixels.reshape(len(pixels), -1) - np.uint8(NO_DATA - 1)  # unsigned: 0, 1, 2 for 127, 128, 129
    with_data = np.flatnonzero(rows.max(1) > 2)
    return len(rows) - 1 - int(with_data[-1]) if len(with_data) else len(rows)


def has_all_scans(data: bytes) -> bool:
    """Whether every scan of a JPEG has begun, so that a cut-off end costs rows at most, not detail or colour.

    A progressive JPEG sends each coefficient coarsely at first, then bit by bit. All scans are there when each
    coefficient of each component has been announced down to its last bit.
    """
    missing_bits: dict[int, list[int]] = {}
    for marker, body in _segments(data):
        try:
            if marker in _FRAMES:
                missing_bits = {body[6 + 3 * i]: [_COEFFICIENTS] * _COEFFICIENTS for i in range(body[5])}
            elif marker == _START_OF_SCAN:
                count = body[0]
                first, last, bits = body[1 + 2 * count : 4 + 2 * count]
                for component in body[1 : 1 + 2 * count : 2]:
                    missing_bits[component][first : last + 1] = [bits & 15] * (last + 1 - first)
        except (IndexError, KeyError, ValueError):  # cut off or damaged here
            return False
    return bool(missing_bits) and not any(any(bits) for bits in missing_bits.values())


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Markers from the start of a JPEG to its end, each with the bytes that its length announces."""
    found = _MARKER.search(data)
    while found:
        marker, at = found[1][0], found.end()
        if marker == END_OF_IMAGE[1]:
            return
        pattern = _MARKER
        if marker not in _WITHOUT_LENGTH:
            if at + 2 > len(data):
                return
            (length,) = struct.unpack_from(">H", data, at)
            yield marker, data[at + 2 : at + length]
            at += length
            pattern = _MARKER_AFTER_SCAN if marker == _START_OF_SCAN else _MARKER
        found = pattern.search(data, at)
