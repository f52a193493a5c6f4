"""Noise with the numbers of ``torch.randn`` on a CPU generator, without torch.

torch's CPU generator is the 32-bit Mersenne Twister (mt19937). A draw of 16 or more float32 normals takes one 32-bit
word per element, keeps 24 bits of it as a uniform and applies Box-Muller in blocks of 16: the first eight uniforms of a
block give radii, the last eight angles. Where the size is no multiple of 16, the last 16 elements are drawn again.
Smaller draws make pairs of float64 normals from two 64-bit uniforms; the second waits for the next small draw.

Angles are rounded as in torch's AVX2 and AVX-512 kernels; its scalar kernel (other processors) differs by up to 3e-6.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import cos, log1p, pi, prod, sin, sqrt

import numpy as np
import numpy.typing as npt

_BLOCK = 16
_HALF = _BLOCK // 2
_CHUNK = 1 << 18  # elements transformed at a time, so that temporaries stay in the cache
_STATE_WORDS = 624
_WORD = 0xFFFFFFFF
_TWO_PI = np.float32(2 * pi)


class TorchGenerator:
    """A stream of normals, the same numbers as ``torch.randn`` gives over consecutive calls with
    ``torch.Generator("cpu").manual_seed(seed)``, to within the last bits of float32.

    Args:
        seed: 0 <= seed < 2**64; as in torch only its low 32 bits count.
    """

    def __init__(self, seed: int) -> None:
        if not 0 <= seed < 1 << 64:
            raise ValueError(f"seed must be in 0..2**64-1, not {seed}")
        self._bits = np.random.MT19937()
        key = np.fromiter(_mt19937_key(seed & _WORD), dtype=np.uint32, count=_STATE_WORDS)
        self._bits.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": _STATE_WORDS}}
        self._kept: float | None = None

    def randn(self, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        """Standard normals, float32, of this shape."""
        size = prod(shape)
        if size < _BLOCK:
            return np.array([self._normal() for _ in range(size)], dtype=np.float32).reshape(shape)
        values = self._uniforms(size)
        tail = self._uniforms(_BLOCK) if size % _BLOCK else None
        whole = size - size % _BLOCK
        for start in range(0, whole, _CHUNK):
            _box_muller(values[start : min(start + _CHUNK, whole)])
        if tail is not None:
            _box_muller(tail)
            values[-_BLOCK:] = tail
        return values.reshape(shape)

    def _words(self, count: int) -> npt.NDArray[np.uint64]:
        return np.asarray(self._bits.random_raw(count), dtype=np.uint64)

    def _uniforms(self, count: int) -> npt.NDArray[np.float32]:
        """Float32 in [0, 1) with 24 bits, one word each."""
        uniforms = np.empty(count, dtype=np.float32)
        for start in range(0, count, _CHUNK):
            part = uniforms[start : start + _CHUNK]
            part[:] = self._words(len(part)) & np.uint64(0xFFFFFF)
            part *= np.float32(2.0**-24)
        return uniforms

    def _uniform53(self) -> float:
        """Float64 in [0, 1) with 53 bits, from two words."""
        high, low = (int(word) for word in self._words(2))
        return ((high << 32 | low) & ((1 << 53) - 1)) * 2.0**-53

    def _normal(self) -> float:
        if self._kept is not None:
            value, self._kept = self._kept, None
            return value
        theta = 2 * pi * self._uniform53()
        radius = sqrt(-2 * log1p(-self._uniform53()))
        self._kept = radius * sin(theta)
        return radius * cos(theta)


def _mt19937_key(seed: int) -> Iterator[int]:
    """The 624 state words after seeding with one word (Matsumoto and Nishimura's init_genrand)."""
    word = seed
    yield word
    for i in range(1, _STATE_WORDS):
        word = (1812433253 * (word ^ word >> 30) + i) & _WORD
        yield word


def _box_muller(uniforms: npt.NDArray[np.float32]) -> None:
    """Turn uniforms, a whole number of blocks of 16, into normals in place; float32 throughout, as in torch."""
    blocks = uniforms.reshape(-1, _BLOCK)
    radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - blocks[:, :_HALF]))
    theta = _TWO_PI * blocks[:, _HALF:]
    np.multiply(radius, np.cos(theta), out=blocks[:, :_HALF])
    np.multiply(radius, np.sin(theta), out=blocks[:, _HALF:])
