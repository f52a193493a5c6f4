"""One system's failure is its own: its error is kept and the other systems and scenarios go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from instantrt_bench.results.files import SystemResult

Value = TypeVar("Value")


@dataclass(frozen=True)
class Attempt(Generic[Value]):
    """What a computation gave, or the exception that it raised: exactly one is not None."""

    value: Value | None
    failure: Exception | None = None

    @property
    def error(self) -> str | None:
        """The failure as a text."""
        return None if self.failure is None else f"{type(self.failure).__name__}: {self.failure}"

    @property
    def result(self) -> SystemResult:
        """As a system's entry in results."""
        return SystemResult("ok") if self.failure is None else SystemResult("failed", self.error)

    def get(self) -> Value:
        """The value, or the failure raised again, so that what builds on it fails for the same reason."""
        if self.failure is not None:
            raise self.failure
        assert self.value is not None
        return self.value


def attempt(compute: Callable[[], Value]) -> Attempt[Value]:
    """Run ``compute``. Interrupts pass through; every other exception is kept."""
    try:
        return Attempt(compute())
    except Exception as error:
        return Attempt(None, error)
