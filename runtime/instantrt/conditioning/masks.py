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


def control_mask(mask: Mask, stride: int) -> Mask:
    """``mask`` at 1/``stride``, f32 [H/stride, W/stride], for IdentityNet's residuals.

    Bilinear without antialiasing, as torch's interpolate (align_corners false): each result lies at the centre of
    its ``stride`` x ``stride`` cell, which is between the two middle pixels when ``stride`` is even.
    """
    cells = _cells(mask, stride)
    low, high = (stride - 1) // 2, stride // 2
    middle = cells[:, [low, high]][..., [low, high]]
    return np.asarray(middle.mean(axis=(1, 3)), np.float32)


def adapter_mask(mask: Mask, stride: int) -> Mask:
    """``mask`` at 1/``stride``, f32 [H/stride, W/stride], for the face attention.

    Nearest as torch's interpolate, which takes the first pixel of each cell.
    """
    return _cells(mask, stride)[:, 0, :, 0].copy()


def _cells(mask: Mask, stride: int) -> Mask:
    """The mask as [H/stride, stride, W/stride, stride]."""
    height, width = mask.shape
    if height % stride or width % stride:
        raise ValueError(f"a mask of {height} x {width} does not divide into cells of {stride}")
    return mask.reshape(height // stride, stride, width // stride, stride)
