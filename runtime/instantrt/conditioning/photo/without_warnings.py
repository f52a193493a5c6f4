"""Keeps what Pillow remarks on odd files from being shown, or raised where the caller's filters make errors of it."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

_thread = threading.local()


def _is_decoding() -> bool:
    return getattr(_thread, "decoding", False)


class _WhileDecoding:
    """In the place of a filter's compiled message: matches every warning of a thread that decodes, and no other."""

    def match(self, _text: str) -> bool:
        return _is_decoding()


_IGNORED = ("ignore", _WhileDecoding(), Warning, None, 0)
_LOGGER = "PIL.TiffImagePlugin"  # the one with errors, about files that Pillow then refuses anyway


@contextmanager
def without_warnings() -> Iterator[None]:
    """Ignore every warning that this thread raises inside, even where the caller's filters turn them into errors.

    ``warnings.catch_warnings`` swaps the filters of the whole process, so two threads that use it undo each other's.
    Here one filter is put in front of the caller's, and stays: it matches only in threads that are inside. Only one
    that another thread puts in front of it meanwhile still counts. Likewise for what Pillow logs, which goes to the
    terminal where nobody handles it.
    """
    logging.getLogger(_LOGGER).addFilter(_is_not_decoding)
    outside = _is_decoding()
    _thread.decoding = True
    try:
        with _filter_in_front():
            yield
    finally:
        _thread.decoding = outside


def _is_not_decoding(_record: logging.LogRecord) -> bool:
    return not _is_decoding()


def _filter_in_front() -> AbstractContextManager[None]:
    """Makes :data:`_IGNORED` the first filter that Python asks."""
    if getattr(sys.flags, "context_aware_warnings", False):  # from Python 3.14 on: filters can belong to one thread
        return warnings.catch_warnings(action="ignore")
    filters = cast(list[Any], warnings.filters)
    if not filters or filters[0] is not _IGNORED:
        filters[:] = [_IGNORED, *(entry for entry in filters if entry is not _IGNORED)]
    return nullcontext()
