"""Bundles by name: packages declare them in the entry-point group ``instantrt.bundles``, e.g. `nano`."""

from __future__ import annotations

import argparse
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from instantrt.errors import MissingExtraError, OutputError

ENTRY_POINTS = "instantrt.bundles"

NamedBundle = Callable[[Path], Path]
"""Gives the bundle's folder, which is made below the cache folder at the first call."""


def user_cache() -> Path:
    """Where programs of this user keep what they can make again, by the platform's convention.

    Raises:
        OutputError: it cannot be known, because the user has no home folder.
    """
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else _home() / "AppData" / "Local") / "instantrt" / "Cache"
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / "instantrt"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else _home() / ".cache") / "instantrt"


def temporary_cache() -> Path:
    """A folder below the system's temporary one, made now, that belongs to this user alone: bundles are trusted.

    Raises:
        OutputError: there is none that can be written, or somebody else's has its name.
    """
    hint = "name a folder with --cache"
    try:
        folder = Path(tempfile.gettempdir()) / f"instantrt-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
        folder.mkdir(mode=stat.S_IRWXU, exist_ok=True)
        info = folder.lstat()
    except OSError as error:
        raise OutputError("no temporary folder can be written", found=str(error.strerror), hint=hint) from error
    ours = not hasattr(os, "getuid") or info.st_uid == os.getuid()  # elsewhere the temporary folder is the user's own
    if not ours or not stat.S_ISDIR(info.st_mode) or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        found = f"{stat.filemode(info.st_mode)}, owned by user {info.st_uid}"
        raise OutputError(f"{folder} is not a folder of this user alone", found=found, hint=hint)
    return folder


def add_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the bundle, and where named ones are kept: ``bundle`` and ``cache``."""
    names = ", ".join(repr(entry.name) for entry in entry_points(group=ENTRY_POINTS))
    parser.add_argument("bundle", metavar="BUNDLE", help=f"folder, or by name: {names}")
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        type=Path,
        help="where a bundle by name is kept once it is exported (default: the user's cache folder)",
    )


def find_bundle(bundle: str, cache: Path | None) -> Path:
    """The bundle's folder; a named one is exported first if this has not happened yet.

    A bundle's folder goes before a name; a folder of that name that is no bundle does not, unless it is written as a
    path, e.g. ``./nano``.

    Args:
        bundle: as the user wrote it.
        cache: where named ones are kept; None takes the user's cache folder, or a temporary one where that cannot be
            written, with a warning.

    Raises:
        MissingExtraError: exporting it needs packages that are not installed.
        OutputError: the cache folder cannot be written.
    """
    from instantrt.bundle import MANIFEST  # imports numpy, for which the help need not wait

    folder, named = Path(bundle), entry_points(group=ENTRY_POINTS, name=bundle)
    if not named or (folder / MANIFEST).is_file():
        return folder
    if folder.exists():
        _warn(f"{bundle} here is no bundle, so the bundle of that name is taken; ./{bundle} means what is here")
    (entry,) = named
    try:
        make: NamedBundle = entry.load()
    except ImportError as error:
        raise MissingExtraError(f"Exporting the {entry.name} checkpoint", "export", str(error)) from error
    if cache is not None:
        return make(cache)
    try:
        return make(user_cache())
    except OutputError as error:
        folder = temporary_cache()
        _warn(f"{error.what} ({error.found}); {entry.name} is kept in {folder} for now, see --cache")
        return make(folder)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:  # no HOME, and no entry in the password file
        hint = "set HOME, or name a folder with --cache"
        raise OutputError("the user's cache folder is unknown", found="no home folder", hint=hint) from error


def _warn(text: str) -> None:
    sys.stderr.write(f"warning: {text}\n")
