"""A disk that refuses: every operation of this process that writes below a folder can be made to fail, or to kill it.

Operations are seen through Python's audit events (open for writing, mkdir, rename, remove, ...), and flushing to the
disk through ``os.fsync``; what a library writes in C into a file that Python opened counts as that open and that flush.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

PATHS_OF = {
    "os.mkdir": 1,
    "os.rename": 2,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.chmod": 1,
    "os.link": 2,
    "os.symlink": 2,
    "os.truncate": 1,
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
KILL = -1
FAULTS = {"no space": errno.ENOSPC, "no permission": errno.EACCES, "killed": KILL}


@dataclass
class FaultyDisk:
    """Counts operations below ``folder``; number ``fail_at`` (from 0) gets the error ``number``, or kills."""

    folder: Path
    fail_at: int | None = None
    number: int = errno.ENOSPC
    seen: list[str] = field(default_factory=list)

    def note(self, operation: str) -> None:
        self.seen.append(operation)
        if self.fail_at is not None and len(self.seen) - 1 == self.fail_at:
            if self.number == KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(self.number, os.strerror(self.number))


_current: FaultyDisk | None = None
_installed = False


def _hook(event: str, arguments: tuple) -> None:
    disk = _current
    if disk is None:
        return
    if event == "open":
        if (
            isinstance(arguments[0], (str, bytes, os.PathLike))
            and arguments[2] & WRITING
            and _below(disk, arguments[0])
        ):
            disk.note(f"open {os.fspath(arguments[0])}")
    elif event in PATHS_OF and any(_below(disk, path) for path in arguments[: PATHS_OF[event]]):
        disk.note(f"{event} {' '.join(map(str, arguments[: PATHS_OF[event]]))}")


def _below(disk: FaultyDisk, path: object) -> bool:
    return isinstance(path, (str, os.PathLike)) and Path(path).absolute().is_relative_to(disk.folder)


@contextmanager
def faulty_disk(folder: Path, fail_at: int | None = None, number: int = errno.ENOSPC) -> Iterator[FaultyDisk]:
    global _current, _installed
    if not _installed:  # a hook cannot be removed again
        sys.addaudithook(_hook)
        _installed = True
    disk, fsync = FaultyDisk(folder, fail_at, number), os.fsync
    _current, os.fsync = disk, lambda _file: disk.note("fsync")
    try:
        yield disk
    finally:
        _current, os.fsync = None, fsync


def operations(folder: Path, act: Callable[[], object]) -> list[str]:
    """What ``act`` writes below ``folder`` if nothing fails."""
    with faulty_disk(folder) as disk:
        act()
    return disk.seen


def killed_at(folder: Path, fail_at: int, act: Callable[[], object]) -> bool:
    """Run ``act`` in a copy of this process that is killed before operation ``fail_at``; whether it came to that."""
    with warnings.catch_warnings():  # of threads: the child only writes files until it dies
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            with faulty_disk(folder, fail_at, KILL):
                act()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL)
    return code != 0
