"""What is remembered of prompts and faces: exact keys, a bounded number, nothing of what failed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from instantrt.cache import BoundedCache
from instantrt.conditioning.cached_faces import CachedFaceStage, photo_digest
from instantrt.conditioning.face import Face
from instantrt.errors import NoFaceError
from randomness import fresh_rng


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 6))
def test_a_cache_gives_what_was_made_and_keeps_the_latest(keys: list[int], capacity: int) -> None:
    cache: BoundedCache[int, int] = BoundedCache(capacity)
    recent: list[int] = []
    made = 0

    def make(key: int) -> int:
        nonlocal made
        made += 1
        return key * 10

    for key in keys:
        before = made
        assert cache.get(key, lambda key=key: make(key)) == key * 10
        assert (made == before) == (key in recent[-capacity:])
        recent = [k for k in recent if k != key] + [key]
        assert len(cache) == min(len(recent), capacity)
    assert cache.hits + cache.misses == len(keys)
    assert cache.misses == made


def test_nothing_is_remembered_of_a_failure() -> None:
    cache: BoundedCache[str, int] = BoundedCache(2)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 // 0)
    assert cache.get("a", lambda: 3) == 3


def test_values_that_hold_memory_are_released_before_the_next_is_made_and_at_the_end() -> None:
    events: list[str] = []
    cache: BoundedCache[int, int] = BoundedCache(2, lambda value: events.append(f"released {value}"))

    def make(key: int) -> int:
        events.append(f"made {key}")
        return key

    for key in (1, 2, 1, 3):
        cache.get(key, lambda key=key: make(key))
    assert events == ["made 1", "made 2", "released 2", "made 3"]
    cache.clear()
    cache.clear()
    assert events[4:] == ["released 1", "released 3"]


class Stage:
    """Counts; finds a face in every photo that is not black."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def largest(self, photo: np.ndarray, role: str) -> tuple[Face, int]:
        self.calls.append(f"largest {role}")
        if not photo.any():
            raise NoFaceError(f"no face in the {role}")
        return Face(np.zeros(4, np.float32), np.full((5, 2), photo[0, 0, 0], np.float32), 1.0), 1

    def embed(self, photo: np.ndarray, face: Face) -> np.ndarray:
        self.calls.append("embed")
        return np.full(4, photo.mean(), np.float32)


def random_photo() -> np.ndarray:
    return fresh_rng().integers(1, 255, (8, 9, 3), dtype=np.uint8)


def test_a_photo_that_comes_again_is_neither_searched_nor_embedded_again() -> None:
    stage = Stage()
    cache = CachedFaceStage(stage)  # type: ignore[arg-type]
    photo = random_photo()
    found, embedding = cache.read(photo, "face photo")
    again, same = cache.read(photo.copy(), "face photo")
    assert again is found
    assert same is embedding
    cache.find(photo, "pose photo")
    assert stage.calls == ["largest face photo", "embed"]


def test_a_photo_altered_in_place_is_another_photo() -> None:
    stage = Stage()
    cache = CachedFaceStage(stage)  # type: ignore[arg-type]
    photo = random_photo()
    _, before = cache.read(photo, "face photo")
    photo[3, 4, 1] ^= 1
    _, after = cache.read(photo, "face photo")
    assert not np.array_equal(before, after)


def test_a_photo_without_a_face_is_searched_again_and_named_by_its_role() -> None:
    cache = CachedFaceStage(Stage())  # type: ignore[arg-type]
    black = np.zeros((4, 4, 3), np.uint8)
    for role in ("face photo", "pose photo"):
        with pytest.raises(NoFaceError, match=role):
            cache.find(black, role)


def test_the_same_bytes_in_another_size_are_another_photo() -> None:
    photo = random_photo()
    assert photo_digest(photo) != photo_digest(photo.reshape(9, 8, 3))
    assert photo_digest(photo[:, ::-1]) != photo_digest(photo)
    assert photo_digest(photo[:, ::-1][:, ::-1]) == photo_digest(photo)
