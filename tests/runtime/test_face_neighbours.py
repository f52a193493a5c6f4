"""Faces close together: nano's detector sees one of two, so the face stage looks again with that one covered."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from doubles.nano_faces import nano_face_stage
from instantrt.conditioning.detectors import DETECTORS
from instantrt.conditioning.face import FaceStage
from instantrt_bench.nano.collages import collages
from instantrt_nano.training.people import EYE_DISTANCE_PX, PEOPLE, portrait

CLOSEST = 1.9  # eye distances from one face's middle to the other's, from cheek to cheek


@pytest.fixture(scope="module")
def stage() -> FaceStage:
    return nano_face_stage()


@pytest.fixture(scope="module")
def close_pairs() -> list[np.ndarray]:
    return [collage.pixels for collage in collages() if collage.width == CLOSEST][::2]


def test_of_two_faces_that_touch_both_are_counted(stage, close_pairs):
    counts = [stage.largest(photo, "face photo")[1] for photo in close_pairs]
    assert set(counts) <= {1, 2}
    assert counts.count(2) >= 0.85 * len(counts)


def test_at_first_sight_only_one_of_them_is_seen_often(stage, close_pairs):
    """Which is why there is a second look."""
    assert sum(len(stage.detect(photo)) == 1 for photo in close_pairs) >= 0.3 * len(close_pairs)


def test_the_second_look_does_not_change_which_face_is_used(stage, close_pairs):
    for photo in close_pairs:
        first, (used, _) = stage.detect(photo)[0], stage.largest(photo, "face photo")
        np.testing.assert_array_equal(used.keypoints, first.keypoints)
        np.testing.assert_array_equal(used.box, first.box)


@pytest.mark.parametrize("person", PEOPLE)
@pytest.mark.parametrize("sides", [(2.6, 3.2), (3.4, 3.4), (5, 7), (7.5, 5)])
def test_one_person_alone_is_one_face(stage, person, sides):
    """From the face alone to the upper body with what is behind it."""
    middle = portrait(person).keypoints.mean(0)
    half = np.array(sides) * EYE_DISTANCE_PX / 2
    (left, top), (right, bottom) = np.maximum(middle - half, 0).astype(int), (middle + half).astype(int)
    photo = np.ascontiguousarray(portrait(person).pixels[top:bottom, left:right])
    assert stage.largest(photo, "face photo")[1] == 1


def test_the_second_look_is_one_view_and_only_for_one_face(astronaut):
    runs: list[int] = []
    stage = nano_face_stage()
    detector = stage._detector

    def counting(inputs: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        runs.append(1)
        return detector(inputs)

    stage._detector = counting
    for photo, more in ((astronaut, 1), (np.hstack([astronaut, astronaut]), 0)):
        runs.clear()
        stage.detect(photo)
        before = len(runs)
        runs.clear()
        stage.largest(photo, "face photo")
        assert len(runs) == before + more


def test_scrfd_sees_both_and_is_not_asked_again():
    found = DETECTORS["scrfd"].neighbours(_never, np.zeros((64, 64, 3), np.uint8), 640, np.zeros(4, np.float32))
    assert len(found) == 0


def _never(_inputs: object) -> Mapping[str, np.ndarray]:
    raise AssertionError("was asked")
