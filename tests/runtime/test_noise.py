"""Noise against torch's CPU generator."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from instantrt.noise import TorchGenerator
from randomness import fresh_rng

# torch's scalar kernel, used on processors without AVX2, rounds angles differently (see instantrt.noise).
VECTORISED = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
TOLERANCE = 1e-6 if VECTORISED else 4e-6

SEEDS = [0, 1, 2**32 - 1, 2**32, 999999999999999, 2**64 - 1, 328_709_608_441_325]
seeds = st.integers(0, 999999999999999)


def torch_generator(seed):
    return torch.Generator("cpu").manual_seed(seed)


def assert_same_draw(ours, theirs, shape):
    draw = ours.randn(shape)
    expected = torch.randn(shape, generator=theirs).numpy()
    assert draw.dtype == np.float32
    assert draw.shape == expected.shape
    np.testing.assert_allclose(draw, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("size", [*range(1, 18), 31, 1000, 4 * 128 * 128])
def test_a_draw_equals_torch(seed, size):
    assert_same_draw(TorchGenerator(seed), torch_generator(seed), (size,))


@pytest.mark.parametrize("samples", [1, 2, 3, 4])
def test_latents_of_several_samples_equal_torch(samples):
    seed = int(fresh_rng().integers(10**15))
    ours, theirs = TorchGenerator(seed), torch_generator(seed)
    for _ in range(3):
        assert_same_draw(ours, theirs, (samples, 4, 17, 9))


def test_a_size_over_one_chunk_that_is_no_multiple_of_16_equals_torch():
    seed = int(fresh_rng().integers(10**15))
    assert_same_draw(TorchGenerator(seed), torch_generator(seed), (2**18 + 5,))


@settings(max_examples=60, deadline=None)
@given(seed=seeds, sizes=st.lists(st.one_of(st.integers(0, 20), st.integers(0, 3000)), min_size=1, max_size=12))
def test_consecutive_draws_of_mixed_sizes_equal_torch(seed, sizes):
    ours, theirs = TorchGenerator(seed), torch_generator(seed)
    for size in sizes:
        assert_same_draw(ours, theirs, (size,))


def test_the_kept_normal_survives_a_large_draw():
    """Three small draws take one pair and a half; the other half must come after the large draw between them."""
    seed = int(fresh_rng().integers(10**15))
    ours, theirs = TorchGenerator(seed), torch_generator(seed)
    for size in (3, 4096, 1, 16, 2):
        assert_same_draw(ours, theirs, (size,))


@given(seed=seeds)
def test_only_the_low_32_bits_of_a_seed_count(seed):
    np.testing.assert_array_equal(TorchGenerator(seed).randn((40,)), TorchGenerator(seed % 2**32).randn((40,)))


def test_a_scalar_shape_gives_a_scalar():
    seed = int(fresh_rng().integers(10**15))
    assert_same_draw(TorchGenerator(seed), torch_generator(seed), ())


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_that_torch_would_not_read_as_they_are_raise(seed):
    with pytest.raises(ValueError, match="seed must be in"):
        TorchGenerator(seed)
