"""Gives memory that was freed back to the system, which the C library does not do by itself when it is in pieces."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def trim_heap() -> None:
    """After networks were unloaded: without it, a process that loads and unloads them grows for ever (glibc only)."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
