"""The version of InstantRT, said here alone: a source tree that is not installed knows it too."""

from __future__ import annotations

from importlib.metadata import version

__version__ = "0.1.0"


def version_of(package: str) -> str:
    """The version of a package.

    Raises:
        PackageNotFoundError: it is not installed, and not InstantRT itself.
    """
    return __version__ if package == "instantrt" else version(package)
