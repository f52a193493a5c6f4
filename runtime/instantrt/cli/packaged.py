"""Bundles by name: `nano` stands for the checkpoint that comes with the package."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from instantrt.errors import MissingExtraError

NANO = "nano"


def add_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the bundle, and where named ones are kept."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help=f"folder, or {NANO!r} for the package's own")
    parser.add_argument(
        "--cache",
        metavar="FOLDER",
        type=Path,
        default=user_cache(),
        help=f"where the bundle of {NANO!r} is kept once it is exported (default: %(default)s)",
    )


def find_bundle(args: argparse.Namespace) -> Path:
    """The bundle's folder; ``nano`` is exported first if this has not happened yet. A folder of that name goes before.

    Raises:
        MissingExtraError: exporting it needs packages that are not installed.
        BundleError: the cache folder cannot be written.
    """
    bundle: Path = args.bundle
    if str(bundle) != NANO or bundle.exists():
        return bundle
    try:
        from instantrt_export.nano.bundle import cached_bundle
    except ImportError as error:
        raise MissingExtraError("Exporting the nano checkpoint", "export", str(error)) from error
    return cached_bundle(args.cache)


def user_cache() -> Path:
    """Where programs of this user keep what they can make again, by the platform's convention."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return (Path(base) if base else Path.home() / "AppData" / "Local") / "instantrt" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "instantrt"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "instantrt"
