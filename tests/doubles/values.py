"""Values of every kind that callers hand over: what JSON has, what Python has, what NumPy has, and hostile ones."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
from hypothesis import strategies as st

TEXTS = st.text(st.characters(exclude_categories=()))
"""Texts with lone surrogates among them, as bytes that are no UTF-8 become in arguments and names of files."""

NUMBERS = st.one_of(
    st.integers(),
    st.integers(-9, 200),
    st.integers(1, 20).map(lambda n: n * 64),
    st.integers(300, 6000).map(lambda digits: 10**digits),
    st.floats(),
    st.floats(-1, 30),
    st.decimals(),
    st.decimals(-1, 30, places=1),
    st.fractions(),
    st.complex_numbers(),
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
SCALARS = st.sampled_from(
    [np.bool_, np.int8, np.uint8, np.int64, np.uint64, np.float16, np.float32, np.float64, np.longdouble, np.complex64]
)


class Unprintable:
    """Cannot be shown, compared or hashed."""

    def __repr__(self) -> str:
        raise ValueError("no repr")

    def __eq__(self, other: object) -> bool:
        raise ValueError("no comparison")

    __hash__ = None  # type: ignore[assignment]


def _scalar(kind: Any, value: int) -> Any:
    return kind(value)


ANYTHING: st.SearchStrategy[Any] = st.one_of(
    JSON,
    st.builds(_scalar, SCALARS, st.integers(0, 100)),
    st.builds(np.array, st.lists(st.integers(-9, 9), max_size=3)),
    st.builds(np.str_, st.text()),
    st.binary(max_size=20),
    st.dates(),
    st.timedeltas(),
    st.tuples(st.integers()),
    st.sets(st.integers(), max_size=2),
    st.builds(Unprintable),
    st.just(datetime),
    st.just(int),
    st.just(...),
)
