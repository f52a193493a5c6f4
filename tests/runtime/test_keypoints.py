"""The keypoint picture against a second, plain implementation of InstantID's drawing."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from instantrt.conditioning.keypoints import draw_keypoints
from randomness import fresh_rng


def _official(keypoints: np.ndarray, width: int, height: int) -> np.ndarray:
    """Straight from the description: ellipses between nose and the others, times 0.6, discs of radius 10 on top."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
    picture = np.zeros((height, width, 3), np.uint8)
    for limb in ([0, 2], [1, 2], [3, 2], [4, 2]):
        x, y = keypoints[limb, 0], keypoints[limb, 1]
        length = math.hypot(float(x[0]) - float(x[1]), float(y[0]) - float(y[1]))
        angle = math.degrees(math.atan2(float(y[0]) - float(y[1]), float(x[0]) - float(x[1])))
        middle = (int(np.mean(x)), int(np.mean(y)))
        outline = cv2.ellipse2Poly(middle, (int(length / 2), 4), int(angle), 0, 360, 1)
        picture = cv2.fillConvexPoly(picture.copy(), np.array(outline), colours[limb[0]])
    picture = (picture * 0.6).astype(np.uint8)
    for (x, y), colour in zip(keypoints, colours, strict=True):
        picture = cv2.circle(picture.copy(), (int(x), int(y)), 10, colour, -1)
    return picture


def _random_face(width: int, height: int) -> np.ndarray:
    """Five points of a plausible face: an upright layout, turned, scaled, moved and shaken."""
    rng = fresh_rng()
    layout = np.array([[-1, -1], [1, -1], [0, 0], [-0.8, 1], [0.8, 1]]) * rng.uniform(0.03, 0.2) * min(width, height)
    angle = rng.uniform(-np.pi, np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = rng.uniform(0.2, 0.8, 2) * (width, height)
    return (layout @ turn.T + centre + rng.normal(0, 4, (5, 2))).astype(np.float32)


@pytest.mark.parametrize(("width", "height"), [(1024, 1024), (1280, 768), (512, 896)])
def test_pixel_for_pixel_at_full_size(width, height):
    for _ in range(40):
        face = _random_face(width, height)
        np.testing.assert_array_equal(draw_keypoints(face, width, height), _official(face, width, height))


def test_points_at_and_beyond_the_edge():
    face = np.array([[-30, 5], [1050, 5], [512, 0], [0, 1023], [1023, 1400]], np.float32)
    np.testing.assert_array_equal(draw_keypoints(face, 1024, 1024), _official(face, 1024, 1024))


@pytest.mark.parametrize(("width", "height", "enlarged"), [(128, 128, 4), (192, 128, 4), (256, 320, 2), (448, 512, 2)])
def test_small_pictures_are_drawn_large_and_averaged(width, height, enlarged):
    face = _random_face(width, height)
    large = _official(face * enlarged, width * enlarged, height * enlarged).astype(np.float64)
    averaged = large.reshape(height, enlarged, width, enlarged, 3).mean((1, 3))
    drawn = draw_keypoints(face, width, height)
    assert drawn.shape == (height, width, 3)
    assert drawn.dtype == np.uint8
    assert np.abs(drawn - averaged).max() <= 0.5


def test_each_keypoint_has_its_colour():
    face = np.array([[400, 400], [600, 400], [500, 500], [420, 600], [580, 600]], np.float32)
    drawn = draw_keypoints(face, 1024, 1024)
    colours = [tuple(int(c) for c in drawn[int(y), int(x)]) for x, y in face]
    assert colours == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
    assert drawn[450, 450].tolist() == [153, 0, 0]  # on the left eye's limb, at 0.6
