"""How far two results are apart: PSNR and SSIM of pictures, relative error and cosine of tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from skimage.metrics import structural_similarity

PSNR_CAP_DB = 120.0
"""What :func:`psnr_db` gives for identical pictures: above anything different uint8 pictures reach (one sample off
by one grey level in 1280x1280 RGB is 115 dB), and still a number, which infinity is not in JSON."""


def psnr_db(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio in dB of two uint8 pictures of one shape, at most :data:`PSNR_CAP_DB`.

    10 log10(255^2 / MSE) over all samples; a stack of pictures is measured as one big picture.
    """
    _check_pictures(a, b)
    mse = float(np.mean(np.square(a.astype(np.float64) - b.astype(np.float64))))
    if mse == 0.0:
        return PSNR_CAP_DB
    return min(PSNR_CAP_DB, 10.0 * float(np.log10(255.0**2 / mse)))


def ssim(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    """Structural similarity (Wang et al. 2004, Gaussian window, sigma 1.5) of uint8 ``[H,W,3]`` or ``[n,H,W,3]``.

    The mean over channels, and over the pictures of a stack. 1.0 for identical pictures.
    """
    _check_pictures(a, b)
    stack_a, stack_b = (x.reshape(-1, *x.shape[-3:]) for x in (a, b))
    values = [
        structural_similarity(
            x, y, channel_axis=-1, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for x, y in zip(stack_a, stack_b, strict=True)
    ]
    return float(np.mean(values))


def relative_error(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Norm of the difference over the norm of ``expected``, in float64. Infinite if only ``expected`` is all zeros."""
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {actual.shape} and {expected.shape}")
    wanted = expected.astype(np.float64).ravel()
    difference = float(np.linalg.norm(actual.astype(np.float64).ravel() - wanted))
    norm = float(np.linalg.norm(wanted))
    if norm == 0.0:
        return 0.0 if difference == 0.0 else float("inf")
    return difference / norm


def cosine(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Cosine of the angle between two tensors of one shape taken as vectors, -1 to 1, in float64.

    Raises:
        ValueError: the shapes differ, or one is zero or not finite and so has no direction.
    """
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    lengths = float(np.linalg.norm(x)), float(np.linalg.norm(y))
    if not np.isfinite(lengths).all() or 0.0 in lengths:
        raise ValueError(f"vectors of length {lengths[0]} and {lengths[1]} have no angle between them")
    return float(x / lengths[0] @ (y / lengths[1]))


def _check_pictures(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> None:
    if a.shape != b.shape:
        raise ValueError(f"pictures differ in shape: {a.shape} and {b.shape}")
    if a.dtype != np.uint8 or b.dtype != np.uint8:
        raise TypeError(f"pictures are uint8, not {a.dtype} and {b.dtype}")
