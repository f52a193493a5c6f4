"""Aligned face crops: the photo turned, scaled and moved so that the five keypoints lie on a fixed template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Template:
    """Where a face encoder expects the five keypoints.

    Args:
        px: side of the square crop.
        points: (x, y) in crop pixels of left eye, right eye, nose, left and right mouth corner (image-left first).
        antialias: whether a crop that is much smaller than the face is averaged from a finer one. ArcFace's is
            not: its embeddings are defined on plainly sampled crops.
    """

    px: int
    points: tuple[tuple[float, float], ...]
    antialias: bool


TEMPLATES: Mapping[str, Template] = {
    "arcface": Template(
        112,
        ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)),
        antialias=False,
    ),
    "dlib": Template(
        150,
        ((48.27, 47.33), (101.73, 47.33), (75.0, 74.0), (47.9, 103.2), (102.1, 103.2)),
        antialias=True,
    ),
}
MAX_OVERSAMPLING = 4


def similarity(source: npt.ArrayLike, target: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """The rotation, scale and shift [2, 3] that brings ``source`` points [n, 2] closest to ``target`` points [n, 2].

    Least squares without reflection, Umeyama (1991). In the plane a rotation with scale is one complex factor, so
    the solution is the complex linear regression of the target on the source.
    """
    src, dst = (_complex(points) for points in (source, target))
    src_mean, dst_mean = src.mean(), dst.mean()
    src, dst = src - src_mean, dst - dst_mean
    factor = np.vdot(src, dst) / np.vdot(src, src).real
    shift = dst_mean - factor * src_mean
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


def aligned_crop(photo: npt.NDArray[np.uint8], keypoints: Points, template: Template) -> npt.NDArray[np.uint8]:
    """The face of u8 RGB ``photo`` as the encoder wants it, u8 [px, px, 3]; black outside the photo.

    Args:
        photo: u8 [H, W, 3].
        keypoints: f32 [5, 2] in photo pixels.
        template: which crop.
    """
    matrix = similarity(keypoints, template.points)
    fine = _oversampling(matrix) if template.antialias else 1
    side = template.px * fine
    # Pixel centres lie at whole numbers for warpAffine: +0.5, scale, -0.5.
    matrix[:, 2] += 0.5 - 0.5 / fine
    crop = cv2.warpAffine(photo, matrix * fine, (side, side), flags=cv2.INTER_LINEAR, borderValue=0)
    if fine > 1:
        crop = cv2.resize(crop, (template.px, template.px), interpolation=cv2.INTER_AREA)
    return np.asarray(crop, np.uint8)


def _complex(points: npt.ArrayLike) -> npt.NDArray[np.complex128]:
    xy = np.asarray(points, np.float64)
    return np.asarray(xy[:, 0] + 1j * xy[:, 1])


def _oversampling(matrix: npt.NDArray[np.float64]) -> int:
    shrink = 1 / np.hypot(matrix[0, 0], matrix[1, 0])
    return int(np.clip(round(shrink), 1, MAX_OVERSAMPLING))
