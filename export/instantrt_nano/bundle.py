"""The bundle of the trained nano checkpoint: exported once, then kept in a cache folder."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from instantrt.bundle import MANIFEST, PictureSizes
from instantrt.cli.outputs import check_folder
from instantrt.errors import BundleError
from instantrt_export.bundle import write_bundle
from instantrt_export.checkpoint import Checkpoint
from instantrt_nano.digests import checkpoint_digest
from instantrt_nano.maker import TRAINED

SIZES = PictureSizes((128, 128), (64, 64), (256, 256))


def cached_bundle(cache: Path) -> Path:
    """The bundle in ``cache``, exported now if this version of the package has not exported this checkpoint yet.

    Raises:
        OutputError: the cache folder cannot be written, which is found out before anything is exported.
        BundleError: it could be written, and then not any more.
    """
    folder = cache / f"nano-{version('instantrt')}-{checkpoint_digest(TRAINED)[:16]}"
    if (folder / MANIFEST).is_file():
        return folder
    check_folder(cache)
    sys.stderr.write(f"exporting the nano checkpoint once, about a minute: {folder}\n")
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        write_bundle(Checkpoint.open(str(TRAINED)), unfinished, SIZES, check_parity=False)  # the tests have checked it
        _publish(unfinished, folder)
    except OSError as error:
        raise BundleError(f"cannot write {folder}", found=str(error), hint="name another folder with --cache") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _publish(unfinished: Path, folder: Path) -> None:
    """Under the final name, unless another process was faster: a folder with that name is always complete."""
    try:
        unfinished.rename(folder)
    except OSError:
        if not (folder / MANIFEST).is_file():
            raise
