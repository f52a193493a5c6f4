"""Random inputs that can be had again.

What a test draws depends on its name alone, so that `make test` always draws the same. Under a seed that pytest was
given (``--hypothesis-seed``, as `make fuzz` does) the draws are others: hypothesis's, and those of :func:`fresh_rng`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_sources: list[np.random.SeedSequence] = []


def fresh_rng() -> np.random.Generator:
    """A generator that no other call in this test gets. Not inside @given: there, let hypothesis draw the seed."""
    return np.random.default_rng(_sources[-1].spawn(1)[0])


@contextmanager
def drawing_for(name: str, seed: str | None) -> Iterator[None]:
    """In here, :func:`fresh_rng` and torch's global generator draw what belongs to this test, or fixture, and seed."""
    source = np.random.SeedSequence([*f"{name} {seed}".encode()])
    _sources.append(source)
    torch = sys.modules.get("torch")  # imported only by the tests that need it
    before = torch.get_rng_state() if torch else None
    if torch:
        torch.manual_seed(int(source.generate_state(1)[0]))
    try:
        yield
    finally:
        _sources.pop()
        if torch:
            torch.set_rng_state(before)
