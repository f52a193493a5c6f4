"""Picture and tensor metrics against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instantrt_bench.results.metrics import PSNR_CAP_DB, psnr_db, relative_error, ssim


def picture(seed: int, shape: tuple[int, ...] = (32, 24, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(10, 240, shape, dtype=np.uint8)


@pytest.mark.parametrize("step", [1, 2, 10])
def test_psnr_of_a_constant_offset(step: int) -> None:
    a = picture(0)
    assert psnr_db(a, a + np.uint8(step)) == pytest.approx(20 * math.log10(255 / step))


def test_psnr_counts_differences_both_ways_without_wrapping() -> None:
    black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    assert psnr_db(black, white) == psnr_db(white, black) == 0.0


def test_identical_pictures_get_the_cap_and_one_grey_level_of_one_sample_does_not() -> None:
    a = picture(1, (1280, 1280, 3))
    b = a.copy()
    assert psnr_db(a, b) == PSNR_CAP_DB
    b[5, 6, 1] += 1
    assert psnr_db(a, b) < PSNR_CAP_DB - 4


def test_psnr_of_a_stack_is_that_of_all_its_samples() -> None:
    a = picture(2, (2, 16, 16, 3))
    b = a.copy()
    b[1] += 2  # half of the samples off by two: MSE 2
    assert psnr_db(a, b) == pytest.approx(10 * math.log10(255**2 / 2))


def test_ssim_is_one_for_identical_pictures_and_falls_with_noise() -> None:
    rng = np.random.default_rng(3)
    a = picture(3, (48, 48, 3))
    noisy = [np.clip(a + rng.normal(0, sigma, a.shape), 0, 255).astype(np.uint8) for sigma in (5, 25, 100)]
    values = [ssim(a, b) for b in (a, *noisy)]
    assert values[0] == pytest.approx(1.0)
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.7


def test_ssim_of_flat_pictures_is_its_luminance_term() -> None:
    x, y = 100, 150
    c1 = (0.01 * 255) ** 2
    a, b = (np.full((32, 32, 3), v, np.uint8) for v in (x, y))
    assert ssim(a, b) == pytest.approx((2 * x * y + c1) / (x * x + y * y + c1), rel=1e-6)


def test_ssim_of_a_stack_is_the_mean_of_its_pictures() -> None:
    a, b = picture(4, (2, 32, 32, 3)), picture(5, (2, 32, 32, 3))
    assert ssim(a, b) == pytest.approx((ssim(a[0], b[0]) + ssim(a[1], b[1])) / 2)


@pytest.mark.parametrize("metric", [psnr_db, ssim])
def test_pictures_that_do_not_compare_are_refused(metric) -> None:
    with pytest.raises(ValueError, match="shape"):
        metric(picture(0), picture(0)[1:])
    with pytest.raises(TypeError, match="uint8"):
        metric(picture(0), picture(0).astype(np.float32))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 10), st.floats(1e-3, 1e3))
def test_relative_error_of_a_scaled_tensor(seed: int, error: float, scale: float) -> None:
    b = scale * np.random.default_rng(seed).standard_normal((3, 5))
    assert relative_error(b * (1 + error), b) == pytest.approx(error, rel=1e-6)


def test_relative_error_of_zeros() -> None:
    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    assert relative_error(zeros, zeros) == 0.0
    assert relative_error(zeros, ones) == 1.0
    assert relative_error(ones, zeros) == math.inf
    with pytest.raises(ValueError, match="shapes differ"):
        relative_error(ones, ones[:2])
