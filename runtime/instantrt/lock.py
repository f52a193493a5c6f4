"""Locks between processes, on files. The system drops them when the process dies, however it dies."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

LOGGER = logging.getLogger(__name__)

_HELD = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_LOOK_SECONDS = 0.1

if sys.platform == "win32":
    import msvcrt

    def _lock(file: BinaryIO) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock on a file, which is there only meanwhile; ``on_wait`` is called once if another process holds it.

    Where the file system has no locks a warning says so, and nothing is held.
    """
    waited = False
    while True:
        with path.open("ab") as file:
            held = _acquired(file, path, where_there_are_none=True) and _is_still(path, file)
            if held:
                try:
                    yield
                finally:
                    with suppress(OSError):  # of systems that remove no open files: then it stays
                        path.unlink()
                return
        if not waited:
            on_wait()
        waited = True
        time.sleep(_LOOK_SECONDS)


@contextmanager
def locked_if_free(path: Path) -> Iterator[bool]:
    """Hold the lock on a file if it is free; gives whether that is so, which is false where there are no locks."""
    with path.open("ab") as file:
        yield _acquired(file, path, where_there_are_none=False)


def _is_still(path: Path, file: BinaryIO) -> bool:
    """Whether the file that was opened is the one of that name: the process that held it may have removed it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _acquired(file: BinaryIO, path: Path, *, where_there_are_none: bool) -> bool:
    try:
        _lock(file)
    except OSError as error:
        if error.errno in _HELD:
            return False
        LOGGER.warning("%s cannot be locked, so do not write there from two processes at once: %s", path, error)
        return where_there_are_none
    return True
