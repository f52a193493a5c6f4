"""What is no finite number is found wherever it stands, and nothing else is taken for it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from instantrt.errors import NotFiniteError
from instantrt.finite import all_finite, require_finite


@settings(deadline=None)
@given(st.sampled_from([np.float16, np.float32]).flatmap(lambda dtype: arrays(dtype, array_shapes(min_side=0))))
def test_the_look_agrees_with_numpys(values: np.ndarray) -> None:
    assert all_finite(values) == np.isfinite(values).all()
    assert all_finite(values.T) == np.isfinite(values).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 777, -1])
def test_one_bad_value_among_thousands_is_found(dtype: type, value: float, place: int) -> None:
    values = np.zeros(4096, dtype)
    assert all_finite(values)
    values[place] = value
    assert not all_finite(values.reshape(1, 4, 32, 32))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_largest_and_smallest_numbers_are_finite(dtype: type) -> None:
    info = np.finfo(dtype)
    assert all_finite(np.array([info.max, info.min, info.smallest_subnormal, -0.0], dtype))


def test_the_error_names_the_network_and_its_output() -> None:
    values = np.array([1.0, np.nan], np.float32)
    with pytest.raises(NotFiniteError, match="text_encoder gave values that are not finite numbers") as error:
        require_finite("text_encoder", "hidden_states", values)
    assert "hidden_states" in str(error.value)
    assert "--precision fp32" in str(error.value)
    assert require_finite("text_encoder", "hidden_states", values[:1]) is not None
