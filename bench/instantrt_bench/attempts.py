"""One system's failure is its own: its error is kept and the other systems and scenarios go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from instantrt_bench.results import SystemResult

Value = TypeVar("Value")
Other = TypeVar("Other")


@dataclass(frozen=True)
class Attempt(Generic[Value]):
    """What a computation gave, or how it failed: exactly one is not None."""

    value: Value | None
    error: str | None = None

    @property
    def result(self) -> SystemResult:
        """As a system's entry in results."""
        return SystemResult("ok") if self.error is None else SystemResult("failed", self.error)

    def then(self, compute: Callable[[Value], Other]) -> Attempt[Other]:
        """The next computation, or the same failure."""
        value = self.value
        return Attempt(None, self.error) if value is None else attempt(lambda: compute(value))


def attempt(compute: Callable[[], Value]) -> Attempt[Value]:
    """Run ``compute``. Interrupts pass through; every other exception becomes an error text."""
    try:
        return Attempt(compute())
    except Exception as error:
        return Attempt(None, f"{type(error).__name__}: {error}")
