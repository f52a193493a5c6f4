"""What a server would compute again and again: results of recent prompts, photos and faces, by exact keys."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from instantrt.conditioning.face import Face, FaceStage

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

PHOTOS = 64


class Cache(Generic[Key, Value]):
    """The most recently used values, at most ``capacity`` of them. Values are shared: don't write into them."""

    def __init__(self, capacity: int) -> None:
        self.hits = 0
        self.misses = 0
        self._capacity = capacity
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of ``key``, made when it is not remembered. Nothing is kept when ``make`` raises."""
        if key in self._values:
            self.hits += 1
            self._values.move_to_end(key)
            return self._values[key]
        value = make()
        self.misses += 1
        self._values[key] = value
        if len(self._values) > self._capacity:
            self._values.popitem(last=False)
        return value


@dataclass(frozen=True)
class FoundFace:
    """The largest face of a photo, and how many there are."""

    face: Face
    count: int


class CachedFaceStage:
    """The face stage for photos that come again. A photo's key is the digest of its pixels and size."""

    def __init__(self, stage: FaceStage, capacity: int = PHOTOS) -> None:
        self._stage = stage
        self.found: Cache[bytes, FoundFace] = Cache(capacity)
        self.embeddings: Cache[bytes, npt.NDArray[np.float32]] = Cache(capacity)

    def find(self, photo: npt.NDArray[np.uint8], role: str) -> FoundFace:
        """The largest face.

        Raises:
            NoFaceError: there is none; the message names ``role``.
        """
        return self._find(photo_digest(photo), photo, role)

    def read(self, photo: npt.NDArray[np.uint8], role: str) -> tuple[FoundFace, npt.NDArray[np.float32]]:
        """The largest face and its embedding f32 [face embedding width].

        Raises:
            NoFaceError: there is none; the message names ``role``.
        """
        digest = photo_digest(photo)
        found = self._find(digest, photo, role)
        return found, self.embeddings.get(digest, lambda: self._stage.embed(photo, found.face))

    def _find(self, digest: bytes, photo: npt.NDArray[np.uint8], role: str) -> FoundFace:
        return self.found.get(digest, lambda: FoundFace(*self._stage.largest(photo, role)))


def photo_digest(photo: npt.NDArray[np.uint8]) -> bytes:
    """SHA-256 of a picture's size and pixels."""
    digest = hashlib.sha256(repr(photo.shape).encode())
    digest.update(np.ascontiguousarray(photo).data)
    return digest.digest()
