"""Region masks, and their reductions against torch's interpolate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from instantrt.conditioning.masks import adapter_mask, control_mask, region_mask
from randomness import fresh_rng


def _interpolated(mask: np.ndarray, scale: int, **options: object) -> np.ndarray:
    size = (mask.shape[0] // scale, mask.shape[1] // scale)
    return F.interpolate(torch.from_numpy(mask)[None, None], size=size, **options)[0, 0].numpy()


@pytest.mark.parametrize("scale", [1, 2, 8, 16, 32, 64])
@pytest.mark.parametrize("shape", [(128, 128), (192, 320)])
def test_reductions_equal_torch(shape, scale):
    random = fresh_rng().random(shape, np.float32)
    box = region_mask(np.sort(fresh_rng().uniform(0, 128, (2, 2)), 0).ravel(), shape[1], shape[0])
    for mask in (random, box):
        bilinear = _interpolated(mask, scale, mode="bilinear", align_corners=False)
        np.testing.assert_allclose(control_mask(mask, scale), bilinear, atol=1e-6)
        np.testing.assert_array_equal(adapter_mask(mask, scale), _interpolated(mask, scale, mode="nearest"))
        assert control_mask(mask, scale).dtype == adapter_mask(mask, scale).dtype == np.float32


def test_an_odd_scale():
    mask = fresh_rng().random((15, 21), np.float32)
    bilinear = _interpolated(mask, 3, mode="bilinear", align_corners=False)
    np.testing.assert_allclose(control_mask(mask, 3), bilinear, atol=1e-6)


def test_a_scale_that_does_not_divide_is_a_bug():
    with pytest.raises(ValueError, match="100 x 128 does not divide into cells of 8"):
        control_mask(np.zeros((100, 128), np.float32), 8)


def test_region_is_one_inside_the_box():
    mask = region_mask(np.array([10.9, 20.2, 30.5, 50.99], np.float32), 64, 96)
    assert mask.shape == (96, 64)
    assert mask.dtype == np.float32
    inside = np.zeros((96, 64))
    inside[20:50, 10:30] = 1
    np.testing.assert_array_equal(mask, inside)


@pytest.mark.parametrize(
    ("box", "ones"),
    [
        ((-5.5, -7.0, 10, 10), 100),  # not taken for indices from the end
        ((50, 60, 900, 900), 14 * 36),
        ((-9, -9, 900, 900), 64 * 96),
        ((-9, -9, -1, -1), 0),
        ((70, 0, 90, 50), 0),
    ],
)
def test_region_is_clipped_to_the_picture(box, ones):
    assert region_mask(np.array(box, np.float32), 64, 96).sum() == ones
