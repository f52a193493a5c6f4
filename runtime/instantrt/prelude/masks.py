"""The region mask, and its reductions to the sizes at which IdentityNet and the face attention work."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.float32]


def region_mask(box: npt.NDArray[np.float32], width: int, height: int) -> Mask:
    """1 inside the face box and 0 outside, f32 [height, width].

    Args:
        box: f32 [4], x1, y1, x2, y2 in picture pixels; truncated to whole pixels and clipped to the picture.
        width: of the picture, pixels.
        height: likewise.
    """
    left, top, right, bottom = (max(0, int(edge)) for edge in box)
    mask = np.zeros((height, width), np.float32)
    mask[top:bottom, left:right] = 1
    return mask


def control_mask(mask: Mask, scale: int) -> Mask:
    """``mask`` at 1/``scale``, f32 [H/scale, W/scale], for IdentityNet's residuals.

    Bilinear without antialiasing, as torch's interpolate (align_corners false): each result lies at the centre of
    its ``scale`` x ``scale`` cell, which is between the two middle pixels when ``scale`` is even.
    """
    cells = _cells(mask, scale)
    low, high = (scale - 1) // 2, scale // 2
    middle = cells[:, [low, high]][..., [low, high]]
    return np.asarray(middle.mean(axis=(1, 3)), np.float32)


def adapter_mask(mask: Mask, scale: int) -> Mask:
    """``mask`` at 1/``scale``, f32 [H/scale, W/scale], for the face attention.

    Nearest as torch's interpolate, which takes the first pixel of each cell.
    """
    return _cells(mask, scale)[:, 0, :, 0].copy()


def _cells(mask: Mask, scale: int) -> Mask:
    """The mask as [H/scale, scale, W/scale, scale]."""
    height, width = mask.shape
    if height % scale or width % scale:
        raise ValueError(f"a mask of {height} x {width} does not divide into cells of {scale}")
    return mask.reshape(height // scale, scale, width // scale, scale)
