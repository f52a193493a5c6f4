"""The face stage with a memory: photos that come again are neither searched nor embedded again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from instantrt.cache import BoundedCache
from instantrt.conditioning.face import Face, FaceStage

PHOTOS = 64


@dataclass(frozen=True)
class FoundFace:
    """The largest face of a photo, and how many there are."""

    face: Face
    count: int


class CachedFaceStage:
    """The face stage for photos that come again. A photo's key is the digest of its pixels and size."""

    def __init__(self, stage: FaceStage, capacity: int = PHOTOS) -> None:
        self._stage = stage
        self.faces: BoundedCache[bytes, FoundFace] = BoundedCache(capacity)
        self.embeddings: BoundedCache[bytes, npt.NDArray[np.float32]] = BoundedCache(capacity)

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
        largest = self._find(digest, photo, role)
        return largest, self.embeddings.get(digest, lambda: self._stage.embed(photo, largest.face))

    def _find(self, digest: bytes, photo: npt.NDArray[np.uint8], role: str) -> FoundFace:
        return self.faces.get(digest, lambda: FoundFace(*self._stage.largest(photo, role)))


def photo_digest(photo: npt.NDArray[np.uint8]) -> bytes:
    """SHA-256 of a picture's size and pixels."""
    digest = hashlib.sha256(repr(photo.shape).encode())
    digest.update(np.ascontiguousarray(photo).data)
    return digest.digest()
