"""Callers take turns: one at a time, the others wait, and one that would wait for itself is told so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident

from instantrt.errors import PipelineError


class Turns:
    """A lock that does not let its holder hang.

    Args:
        what: what the turns are taken at, for messages.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = Lock()
        self._holder: int | None = None
        self._over = False

    @contextmanager
    def take(self) -> Iterator[None]:
        """Wait for a turn, and have it until the block ends.

        Raises:
            PipelineError: this thread has one already, which would wait for ever, or there are no more turns.
        """
        with self._held():
            if self._over:
                raise PipelineError(f"{self._what} is closed", found="a call after close()", hint="load it again")
            yield

    @contextmanager
    def take_last(self) -> Iterator[None]:
        """Like :meth:`take`, and no turn comes after it but last ones.

        Raises:
            PipelineError: this thread has a turn already.
        """
        with self._held():
            self._over = True
            yield

    @contextmanager
    def _held(self) -> Iterator[None]:
        if self._holder == get_ident():
            raise PipelineError(
                f"{self._what} was called while this thread waits for it, which would never end",
                found="a call from its own progress or cancelled callback",
                hint="wait until the request is done, or call it from another thread",
            )
        with self._lock:
            self._holder = get_ident()
            try:
                yield
            finally:
                self._holder = None
