"""Bundles by name: packages declare them in the entry-point group ``instantrt.bundles``, e.g. `nano`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path

from instantrt.errors import MissingExtraError

ENTRY_POINTS = "instantrt.bundles"

NamedBundle = Callable[[Path], Path]
"""Gives the bundle's folder, which is made below the cache folder at the first call."""


def user_cache() -> Path:
    """Where programs of this user keep what they can make again, by the platform's convention."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "instantrt" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "instantrt"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "instantrt"


def add_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the bundle, and where named ones are kept: ``bundle`` and ``cache``."""
    names = ", ".join(repr(entry.name) for entry in entry_points(group=ENTRY_POINTS))
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help=f"folder, or by name: {names}")
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        type=Path,
        help="where a bundle by name is kept once it is exported (default: the user's cache folder)",
    )


def find_bundle(bundle: Path, cache: Path | None) -> Path:
    """The bundle's folder; a named one is exported first if this has not happened yet. A folder goes before a name.

    Raises:
        MissingExtraError: exporting it needs packages that are not installed.
        BundleError: the cache folder cannot be written.
    """
    named = entry_points(group=ENTRY_POINTS, name=str(bundle))
    if bundle.exists() or not named:
        return bundle
    (entry,) = named
    try:
        make: NamedBundle = entry.load()
    except ImportError as error:
        raise MissingExtraError(f"Exporting the {entry.name} checkpoint", "export", str(error)) from error
    return make(cache or user_cache())
