"""The keypoint picture: IdentityNet's control image, drawn as InstantID's official code draws it."""

from __future__ import annotations

from math import atan2, ceil, degrees

import cv2
import numpy as np
import numpy.typing as npt

LIMBS = ((0, 2), (1, 2), (3, 2), (4, 2))  # each of the others to the nose
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
LIMB_HALF_WIDTH_PX = 4
LIMB_COLOURS = tuple(tuple(int(value * 0.6) for value in colour) for colour in COLOURS)  # darker than the discs
RADIUS_PX = 10
MIN_CANVAS_PX = 512

Canvas = npt.NDArray[np.uint8]


def draw_keypoints(keypoints: npt.NDArray[np.float32], width: int, height: int) -> Canvas:
    """Draw five keypoints on black, u8 RGB [height, width, 3].

    Discs and limbs have a fixed size in pixels, made for pictures of about 1024 px. A picture with a side below
    512 px is therefore drawn on a canvas enlarged by a whole number and averaged down.

    Args:
        keypoints: f32 [5, 2] in picture pixels: left eye, right eye, nose, left and right mouth corner (image-left
            first).
        width: of the picture, pixels.
        height: likewise.
    """
    enlarged = ceil(MIN_CANVAS_PX / min(width, height))
    if enlarged <= 1:
        return _draw(keypoints, width, height)
    canvas = _draw(keypoints * np.float32(enlarged), width * enlarged, height * enlarged)
    return np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def _draw(keypoints: npt.NDArray[np.float32], width: int, height: int) -> Canvas:
    canvas = np.zeros((height, width, 3), np.uint8)
    for first, second in LIMBS:
        _draw_limb(canvas, keypoints[first], keypoints[second], LIMB_COLOURS[first])
    for (x, y), colour in zip(keypoints, COLOURS, strict=True):
        cv2.circle(canvas, (int(x), int(y)), RADIUS_PX, colour, cv2.FILLED)
    return canvas


def _draw_limb(
    canvas: Canvas, start: npt.NDArray[np.float32], end: npt.NDArray[np.float32], colour: tuple[int, ...]
) -> None:
    """A filled ellipse around the middle of the two points, as long as their distance."""
    dx, dy = start - end
    half_axes = (int((dx**2 + dy**2) ** 0.5 / 2), LIMB_HALF_WIDTH_PX)
    centre_x, centre_y = (start + end) / 2
    angle = int(degrees(atan2(dy, dx)))
    outline = np.array(cv2.ellipse2Poly((int(centre_x), int(centre_y)), half_axes, angle, 0, 360, 1))
    cv2.fillConvexPoly(canvas, outline, colour)
