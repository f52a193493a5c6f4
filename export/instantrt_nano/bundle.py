"""The bundle of the trained nano checkpoint: exported once, then kept in a cache folder."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

from instantrt.atomic import output_errors
from instantrt.bundle import Bundle, PictureSizes
from instantrt.cli.outputs import check_folder
from instantrt.errors import BundleError
from instantrt.lock import locked
from instantrt.version import __version__
from instantrt_export.bundle import write_bundle
from instantrt_export.checkpoint import Checkpoint
from instantrt_nano.digests import checkpoint_digest
from instantrt_nano.maker import TRAINED

SIZES = PictureSizes((128, 128), (64, 64), (256, 256))


def cached_bundle(cache: Path) -> Path:
    """The bundle in ``cache``, exported now if this version of the package has not exported this checkpoint yet.

    A process that finds another one at it waits. A bundle that was damaged is exported again.

    Raises:
        OutputError: the cache folder cannot be written, found out before the export where possible.
    """
    folder = cache / f"nano-{__version__}-{checkpoint_digest(TRAINED)[:16]}"
    if _is_whole(folder):
        return folder
    check_folder(cache)
    with ExitStack() as held:
        with output_errors(folder):
            cache.mkdir(parents=True, exist_ok=True)
            lock = folder.with_name(f"{folder.name}.lock")
            held.enter_context(locked(lock, lambda: _say("waiting for another export of nano")))
        if not _is_whole(folder):  # not even by now: another process may have made it
            _say(f"exporting the nano checkpoint once, about a minute: {folder}")
            # The tests have checked its parity.
            write_bundle(Checkpoint.open(str(TRAINED)), folder, SIZES, check_parity=False)
    return folder


def _is_whole(folder: Path) -> bool:
    try:
        Bundle.open(folder)
    except BundleError:
        return False
    return True


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
