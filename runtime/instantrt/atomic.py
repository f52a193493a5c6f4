"""Files written whole or not at all: the one way in which InstantRT writes what users keep.

A file appears under its name in one rename, so that a reader, a full disk or a kill at any instant sees the old file or
the new one. What the operating system refuses becomes an :class:`OutputError` that says what to do.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from instantrt.errors import OutputError

PARTIAL = (".instantrt-", ".partial")
"""How the name of an unfinished file starts and ends; short, so that the longest legal name can be written."""

_PROBE_BYTES = 4096
_ELSEWHERE = "or name another place"
_HINTS = {
    errno.ENOSPC: f"make room there, {_ELSEWHERE}",
    errno.EDQUOT: f"make room in your quota there, {_ELSEWHERE}",
    errno.EFBIG: "raise this process's limit on file sizes (`ulimit -f`)",
    errno.EACCES: f"change the permissions there, {_ELSEWHERE}",
    errno.EPERM: f"change the permissions there, {_ELSEWHERE}",
    errno.EROFS: "name a place on a file system that can be written",
    errno.EISDIR: "name a file, for example one in that folder",
    errno.ENOTDIR: "a part of the path is a file: name a folder",
    errno.ENAMETOOLONG: "use a shorter name",
}


def replace_file(path: Path, write: Callable[[BinaryIO], object], *, partial: Path | None = None) -> None:
    """Write a file in one atomic step; folders on the way are made.

    The file keeps its permissions if it was there, and a link keeps pointing to it. What is no regular file, such as
    ``/dev/stdout`` or a pipe, is written to as it is.

    Args:
        path: the file.
        write: puts the content into the open file that it is given.
        partial: the file until it is complete, on the same file system; for those who clean up after a kill, and hold a
            lock. By default one with a name of its own, beside ``path``.

    Raises:
        OutputError: the file cannot be written; nothing of it is left, and an older one is as it was.
    """
    with output_errors(path):
        if _is_special(path):
            with path.open("wb") as file:
                write(file)
            return
        place = _place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = partial or place.with_name(secrets.token_hex(4).join(PARTIAL))
        try:
            with partial.open("wb") as file:
                write(file)
                sync(file)
            if place.exists():
                partial.chmod(stat.S_IMODE(place.stat().st_mode))
            partial.replace(place)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        sync_folder(place.parent)


def replace_text(path: Path, text: str) -> None:
    """:func:`replace_file` with a text in UTF-8."""
    replace_file(path, lambda file: file.write(text.encode()))


def check_output(path: Path) -> None:
    """Raise now what :func:`replace_file` would raise later, as far as that can be known; leaves nothing behind.

    Raises:
        OutputError: a folder, a path below a file, a name too long, no permission, a read-only or full file system.
    """
    with output_errors(path):
        if _is_special(path):
            return
        place = _place(path)
        folder = next(parent for parent in place.parents if parent.is_dir())
        for name in place.relative_to(folder).parts:
            with suppress(FileNotFoundError):
                (folder / name).lstat()  # refuses names that are too long, also where the folders before are missing
        with tempfile.TemporaryFile(dir=folder) as probe:  # without a name where the system can do that
            probe.write(bytes(_PROBE_BYTES))


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """What the operating system refuses while ``path`` is written, as :class:`OutputError`."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not the operating system's: libraries raise OSError for other mistakes as well
            raise
        raise OutputError(
            f"{path} cannot be written",
            found=f"{os.strerror(error.errno)}{_room(path, error.errno)}",
            hint=_HINTS.get(error.errno, f"look at that file system, {_ELSEWHERE}"),
        ) from error


def sync(file: BinaryIO) -> None:
    """Wait until the disk has the file: a rename must not outlive, after a power cut, what it renames."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's names, where the system can do that."""
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _place(path: Path) -> Path:
    """The file itself where ``path`` is a link to it."""
    if "\0" in str(path):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    place = Path(os.path.realpath(path))
    try:
        mode = place.stat().st_mode
    except FileNotFoundError:
        return place
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return place


def _is_special(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _room(path: Path, number: int) -> str:
    if number not in (errno.ENOSPC, errno.EDQUOT):
        return ""
    folder = next((parent for parent in path.absolute().parents if parent.is_dir()), None)
    return "" if folder is None else f"; {shutil.disk_usage(folder).free / 1e6:.1f} MB are free in {folder}"
