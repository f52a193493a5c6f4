"""Adobe RGB (1998) as an ICC profile, for cameras that name it in EXIF and embed none."""

from __future__ import annotations

import struct

# From the specification, adapted to D50 as ICC profiles are: where full red, green and blue lie in XYZ.
_COLORANTS = {
    b"rXYZ": (0.60974, 0.31111, 0.01947),
    b"gXYZ": (0.20528, 0.62567, 0.06087),
    b"bXYZ": (0.14919, 0.06322, 0.74457),
}
_D50 = (0.96420, 1.0, 0.82491)
_GAMMA = 2.19921875
_HEADER_BYTES = 128


def adobe_rgb_profile() -> bytes:
    """A version 2 profile: three colorants, a white point and one gamma."""
    gamma = b"curv" + struct.pack(">4xIH2x", 1, round(_GAMMA * 256))
    tags = {b"wtpt": _xyz(_D50)} | {name: _xyz(colour) for name, colour in _COLORANTS.items()}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma)
    table, body = struct.pack(">I", len(tags)), b""
    start = _HEADER_BYTES + len(table) + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data
    return _header(start + len(body)) + table + body


def _header(size: int) -> bytes:
    """A display profile from RGB to XYZ; no date, maker or device."""
    fields = struct.pack(">I4xI4s4s4s12x4s28x", size, 0x02400000, b"mntr", b"RGB ", b"XYZ ", b"acsp")
    return (fields + _fixed(_D50)).ljust(_HEADER_BYTES, b"\0")


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(values)


def _fixed(values: tuple[float, float, float]) -> bytes:
    """As s15Fixed16 numbers."""
    return struct.pack(">3i", *(round(value * 65536) for value in values))
