"""A bounded cache: the most recently used values by exact keys."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class BoundedCache(Generic[Key, Value]):
    """Keeps at most ``capacity`` values, the most recently used. Values are shared: don't write into them.

    Args:
        capacity: values at most, from 1.
        release: frees what a value holds. With it, the oldest value is released *before* a new one is made, so that
            device memory never holds one too many; without it, a value that could not be made costs none of the others.
    """

    def __init__(self, capacity: int, release: Callable[[Value], None] | None = None) -> None:
        self.hits = 0
        self.misses = 0
        self._capacity = capacity
        self._release = release
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of ``key``, made when it is not kept. Nothing is kept when ``make`` raises."""
        if key in self._values:
            self.hits += 1
            self._values.move_to_end(key)
            return self._values[key]
        if self._release is not None:
            self._shrink(self._capacity - 1)
        value = make()
        self.misses += 1
        self._values[key] = value
        self._shrink(self._capacity)
        return value

    def values(self) -> list[Value]:
        """All that is kept, the oldest first."""
        return list(self._values.values())

    def clear(self) -> None:
        """Release everything; may be called more than once."""
        self._shrink(0)

    def _shrink(self, size: int) -> None:
        while len(self._values) > size:
            value = self._values.popitem(last=False)[1]
            if self._release is not None:
                self._release(value)
