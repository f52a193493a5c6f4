"""From photo to picture: covering, centring on the face, and points that stay on what they mark."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from instantrt.conditioning.framing import Framing, frame_photo
from randomness import fresh_rng

_SIDES = st.integers(32, 1280)
_PICTURE_SIDES = st.integers(1, 16).map(lambda n: 64 * n)
_FRACTIONS = st.tuples(*[st.floats(0, 1)] * 4)


def _box(fractions: tuple[float, ...], width: int, height: int) -> np.ndarray:
    x1, x2 = sorted(fractions[:2])
    y1, y2 = sorted(fractions[2:])
    return np.array([x1 * width, y1 * height, x2 * width, y2 * height], np.float32)


@settings(deadline=None)
@given(_SIDES, _SIDES, _FRACTIONS, _PICTURE_SIDES, _PICTURE_SIDES)
def test_the_photo_covers_the_picture_with_the_face_as_central_as_it_can_be(w, h, fractions, width, height):
    framing = frame_photo(w, h, _box(fractions, w, h), width, height)
    x1, y1, x2, y2 = framing.box(np.array([0, 0, w, h], np.float32))
    assert x1 <= 0
    assert y1 <= 0
    assert x2 >= width - 0.51  # half a pixel, because the photo is resized to whole pixels
    assert y2 >= height - 0.51
    assert min(x2 - x1 - width, y2 - y1 - height) < 1e-2  # no larger than needed
    face = framing.box(_box(fractions, w, h)).reshape(2, 2).mean(0)
    for centre, middle, low, high, side in ((face[0], width / 2, x1, x2, width), (face[1], height / 2, y1, y2, height)):
        at_the_edge = (low > -1 and centre < middle) or (high < side + 1 and centre > middle)
        assert at_the_edge or abs(centre - middle) < 1


def test_a_photo_of_the_picture_size_is_left_alone():
    photo = fresh_rng().integers(0, 256, (128, 192, 3), np.uint8)
    framing = frame_photo(192, 128, np.array([10, 10, 50, 50], np.float32), 192, 128)
    assert framing == Framing(1.0, 0, 0)
    np.testing.assert_array_equal(framing.apply(photo, 192, 128), photo)


def test_points_and_box_are_scaled_and_moved():
    framing = Framing(0.5, -10, -20)
    np.testing.assert_array_equal(framing.points(np.array([[100, 100], [20, 40]], np.float32)), [[40, 30], [0, 0]])
    np.testing.assert_array_equal(framing.box(np.array([20, 40, 100, 100], np.float32)), [0, 0, 40, 30])
    assert framing.points(np.zeros((5, 2), np.float32)).dtype == np.float32


@settings(deadline=None)
@given(_SIDES, _SIDES, _FRACTIONS, _PICTURE_SIDES, _PICTURE_SIDES)
def test_every_photo_fills_the_picture(w, h, fractions, width, height):
    photo = np.full((h, w, 3), 200, np.uint8)
    picture = frame_photo(w, h, _box(fractions, w, h), width, height).apply(photo, width, height)
    assert picture.shape == (height, width, 3)
    assert (picture == 200).all()


def test_points_stay_on_what_they_mark():
    """A white disc in the photo lies, in the picture, where its centre is mapped to."""
    photo = np.zeros((600, 900, 3), np.uint8)
    cv2.circle(photo, (620, 310), 20, (255, 255, 255), cv2.FILLED)
    for width, height in ((128, 128), (1024, 1024), (512, 768)):
        framing = frame_photo(900, 600, np.array([560, 250, 680, 370], np.float32), width, height)
        white = np.argwhere(framing.apply(photo, width, height)[..., 0] > 127)
        found = white[:, ::-1].mean(0) + 0.5  # pixel centres
        expected = framing.points(np.array([620.5, 310.5], np.float32))
        assert np.abs(found - expected).max() < 0.35
