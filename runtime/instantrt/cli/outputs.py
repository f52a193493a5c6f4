"""What commands write: known to be writable before anything is made, and written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from instantrt.atomic import PARTIAL, check_output, replace_file
from instantrt.errors import OutputError

if TYPE_CHECKING:
    from PIL.Image import Image


def check_folder(folder: Path) -> None:
    """Raise now what writing files into ``folder`` would raise later; leaves nothing behind, not even the folder.

    Raises:
        OutputError: a file, a path below a file, a name too long, no permission, a read-only or full file system.
    """
    _check_name(folder)
    try:
        check_output(folder / "".join(PARTIAL))
    except OutputError as error:
        raise OutputError(f"{folder} cannot be written", found=error.found, hint=error.hint) from error


def check_files(files: Iterable[Path], inputs: Iterable[str | Path | None] = ()) -> None:
    """Raise now what writing these files would raise later.

    Args:
        files: what a command writes; no two the same.
        inputs: files that it reads, and must not replace; None stands for one that was not given.

    Raises:
        OutputError: see :func:`instantrt.atomic.check_output`; or a file that is another of these, or an input.
    """
    taken = {os.path.realpath(path): "which the command reads" for path in inputs if path is not None}
    for file in files:
        _check_name(file)
        check_output(file)
        place = os.path.realpath(file)
        if place in taken and not _is_device(file):
            hint = "name another file for what the command writes"
            raise OutputError(f"{file} would be replaced", found=f"a file {taken[place]}", hint=hint)
        taken[place] = "which the command writes already"


def save_picture(image: Image, path: Path, **options: int) -> None:
    """Write a picture in the format of its suffix.

    Args:
        image: what to write.
        path: the file.
        options: of Pillow's writer, e.g. ``quality``.

    Raises:
        OutputError: the file cannot be written.
    """
    from PIL.Image import registered_extensions

    encoded = BytesIO()
    image.save(encoded, format=registered_extensions()[path.suffix.lower()], **options)
    replace_file(path, lambda file: file.write(encoded.getbuffer()))


def _check_name(path: Path) -> None:
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        found = f"{error.object[error.start]!r}, which no name can hold here"
        raise OutputError(f"{str(path)!r} cannot be written", found=found, hint="use another name") from error


def _is_device(path: Path) -> bool:
    return path.exists() and not path.is_file()
