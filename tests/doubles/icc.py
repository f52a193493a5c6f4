"""ICC profiles as cameras, phones and photo editors embed them, made of published primaries and tone curves."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Curve = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]

D50 = np.array([0.9642, 1.0, 0.8249])
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
TABLE = 1024


def srgb_curve(encoded: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """IEC 61966-2-1."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


@dataclass(frozen=True)
class Space:
    """A colour space: xy of red, green, blue and white, and what encoded values 0-1 mean in linear light."""

    primaries: tuple[tuple[float, float], ...]
    white: tuple[float, float]
    curve: Curve

    def to_xyz(self) -> npt.NDArray[np.float64]:
        """Linear RGB to XYZ, adapted to D50."""
        columns = np.array([_xyz(*xy) for xy in self.primaries]).T
        white = _xyz(*self.white)
        adapted = np.linalg.inv(BRADFORD) @ np.diag((BRADFORD @ D50) / (BRADFORD @ white)) @ BRADFORD
        return adapted @ columns * np.linalg.solve(columns, white)


D65 = (0.3127, 0.3290)
SPACES: Mapping[str, Space] = {
    "sRGB": Space(((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)), D65, srgb_curve),
    "Display P3": Space(((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)), D65, srgb_curve),
    "Adobe RGB": Space(((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), D65, lambda encoded: encoded**2.19921875),
    "ProPhoto RGB": Space(
        ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)), (0.3457, 0.3585), lambda encoded: encoded**1.8
    ),
}


def rgb_profile(name: str) -> bytes:
    """One of :data:`SPACES` as a version 2 matrix profile with tables for curves."""
    space = SPACES[name]
    colorants = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), space.to_xyz().T, strict=True))
    tags = {key: b"XYZ \0\0\0\0" + _fixed(value) for key, value in colorants.items()}
    return _profile(b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _table(space.curve)))


def grey_profile(gamma: float) -> bytes:
    """A grey profile."""
    return _profile(b"GRAY", {b"kTRC": _table(lambda encoded: encoded**gamma)})


INKS = np.array([[0.05, 0.4, 0.7], [0.6, 0.02, 0.25], [0.9, 0.75, 0.03], [0.02, 0.02, 0.02]])
"""Linear sRGB of full cyan, magenta, yellow and key on white paper; together they multiply."""


def cmyk_profile() -> bytes:
    """An ink profile: a table of the 16 mixtures of full inks and no inks, in CIELAB."""
    grid = np.stack(np.meshgrid(*[[0.0, 1.0]] * 4, indexing="ij"), -1).reshape(-1, 4)
    entries = np.clip(_lab(inked(grid) @ SPACES["sRGB"].to_xyz().T), 0, 65535).round().astype(">u2")
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    ramp = np.array([0, 65535], ">u2").tobytes()
    head = struct.pack(">4s4xBBBx", b"mft2", 4, 3, 2) + matrix + struct.pack(">HH", 2, 2)
    table = head + 4 * ramp + entries.tobytes() + 3 * ramp
    return _profile(b"CMYK", {b"A2B0": table, b"A2B1": table}, kind=b"prtr", connection=b"Lab ")


def inked(amounts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Linear sRGB [n, 3] of amounts of the four inks [n, 4], each 0 or 1."""
    return np.where(amounts[:, :, None] > 0, INKS, 1).prod(1)


def converted(pixels: npt.NDArray[np.uint8], name: str) -> npt.NDArray[np.uint8]:
    """sRGB u8 [..., 3] as the numbers that mean the same colours in another of :data:`SPACES`."""
    linear = srgb_curve(pixels / 255) @ (np.linalg.inv(SPACES[name].to_xyz()) @ SPACES["sRGB"].to_xyz()).T
    encoded = np.linspace(0, 1, 4096)
    values = np.interp(np.clip(linear, 0, 1), SPACES[name].curve(encoded), encoded)
    return np.asarray((values * 255).round(), np.uint8)


def tagged(pixels: npt.NDArray[np.uint8], name: str) -> Image.Image:
    """A photo as a camera with that colour space has it: the same colours, other numbers, and the profile."""
    image = Image.fromarray(converted(pixels, name))
    image.info["icc_profile"] = rgb_profile(name)
    return image


def _xyz(x: float, y: float) -> npt.NDArray[np.float64]:
    return np.array([x / y, 1, (1 - x - y) / y])


def _lab(xyz: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """CIELAB in the 16-bit encoding of version 2 profiles."""
    ratio = xyz / D50
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    lightness, a, b = 116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])
    return np.stack([lightness * 652.8, (a + 128) * 256, (b + 128) * 256], -1)


def _table(curve: Curve) -> bytes:
    values = (curve(np.linspace(0, 1, TABLE)) * 65535).round().astype(">u2")
    return b"curv" + struct.pack(">4xI", TABLE) + values.tobytes()


def _fixed(values: npt.NDArray[np.float64]) -> bytes:
    return (values * 65536).round().astype(">i4").tobytes()


def _profile(space: bytes, tags: Mapping[bytes, bytes], kind: bytes = b"mntr", connection: bytes = b"XYZ ") -> bytes:
    tags = {b"wtpt": b"XYZ \0\0\0\0" + _fixed(D50), **tags}
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4xI4s4s4s12x4s28x", start + len(body), 0x02400000, kind, space, connection, b"acsp")
    return (header + _fixed(D50)).ljust(128, b"\0") + table + body
