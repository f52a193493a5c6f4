"""What people have a photo in: paths, bytes, open files, PIL images, arrays. None of it is changed."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from instantrt.conditioning.photo import limits
from instantrt.errors import PhotoError
from instantrt.plain import shortened

CHUNK_BYTES = 2**20

_reading_images = threading.Lock()  # several requests may share one image, and its file has one position


class BinaryFile(Protocol):
    """Anything with ``read``: files opened with "rb", BytesIO, uploads of web frameworks, responses."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes, none at the end."""
        ...


PhotoSource = (
    str
    | os.PathLike[str]
    | os.PathLike[bytes]
    | bytes
    | bytearray
    | memoryview
    | BinaryFile
    | Image.Image
    | npt.NDArray[np.uint8]
)


@dataclass(frozen=True)
class ImageFileBytes:
    """An image file in memory.

    Args:
        data: the whole file.
        frame: which picture of it is meant.
        opened_as: the format that the caller has already opened it as, if any.
    """

    data: bytes
    frame: int = 0
    opened_as: str | None = None


def read_source(source: object) -> ImageFileBytes | Image.Image | npt.NDArray[Any]:
    """The bytes of a file, or what is already pixels: a PIL image in memory, or an array.

    Args:
        source: see :func:`instantrt.conditioning.photo.decode_photo`.

    Raises:
        PhotoError: it is of another kind, or cannot be read, or is too large.
    """
    if isinstance(source, np.ndarray):
        return np.asarray(source)
    if isinstance(source, Image.Image):
        return source if _in_memory(source) else _file_behind(source)
    if isinstance(source, bytes | bytearray | memoryview):
        return _from_buffer(source)
    if isinstance(source, str | os.PathLike):
        return ImageFileBytes(_read_path(source))
    if _has_read(source):
        return ImageFileBytes(_read_file(source))
    kinds = "a path, the bytes of an image file, a file opened with 'rb', a PIL image or a uint8 array"
    raise PhotoError("the photo is not of a kind that can be read", found=_kind(source), hint=f"give {kinds}")


def _has_read(value: object) -> bool:
    try:
        return callable(getattr(value, "read", None))
    except Exception:  # an attribute of the caller's class that fails
        return False


def _kind(value: object) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return "None" if value is None else f"a value of type {name}"


def _from_buffer(buffer: bytes | bytearray | memoryview) -> ImageFileBytes | npt.NDArray[Any]:
    """The bytes of a file; a memoryview with more than one axis is an array."""
    try:
        if isinstance(buffer, memoryview) and buffer.ndim > 1:
            return np.asarray(buffer)
        size = buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)
        _check_bytes(size, "the bytes given")
        return ImageFileBytes(bytes(buffer))
    except (ValueError, NotImplementedError) as error:  # a memoryview that was released, or of an odd layout
        raise PhotoError("the photo's bytes cannot be read", found=str(error), hint=limits.FILE_HINT) from None


def _read_path(path: str | os.PathLike[Any]) -> bytes:
    name = "?"
    try:
        name = _printable(os.fsdecode(path))
        with open(path, "rb") as file:  # noqa: PTH123 - any PathLike, also of bytes
            _check_bytes(os.fstat(file.fileno()).st_size, name)
            return _read_all(file, name)
    except PhotoError:
        raise
    except FileNotFoundError:
        hint = "download it and give the file's path or bytes" if "://" in name else "check the path"
        raise PhotoError("the photo does not exist", found=name or "an empty name", hint=hint) from None
    except Exception as error:  # ValueError: a NUL character; and whatever a PathLike of the caller's raises
        reason = getattr(error, "strerror", None) or error
        raise PhotoError("the photo cannot be read", found=f"{name}: {reason}", hint=limits.FILE_HINT) from None


def _printable(path: str) -> str:
    """A path as a message can show it: not endless, and in characters that every terminal's encoding has a way for."""
    return shortened(path).encode("utf-8", "backslashreplace").decode()


def _file_behind(image: Image.Image) -> ImageFileBytes:
    """The file of a PIL image that was opened and not yet decoded: decoding the image itself would change it."""
    file = getattr(image, "fp", None)
    if file is None:
        hint = "give it before it is closed, or call its load() first"
        raise PhotoError("the image is closed", found=f"{image.format or 'image'} without pixels or file", hint=hint)
    with _reading_images:
        return ImageFileBytes(_read_file(file), image.tell(), image.format)


def _in_memory(image: Image.Image) -> bool:
    if not isinstance(image, ImageFile.ImageFile):
        return True
    try:
        return not image.tile and image.im is not None
    except (AssertionError, ValueError):  # Pillow's ways to say that there are no pixels: not yet, or no longer
        return False


def _read_file(file: Any) -> bytes:
    """A file's bytes from its beginning, as Pillow reads it; one that cannot be rewound, from where it stands."""
    name = f"{type(file).__name__} object"
    try:
        with _rewound(file):
            return _read_all(file, name)
    except PhotoError:
        raise
    except Exception as error:  # a closed file, a broken connection, an object that only looks like a file
        found = f"{name}: {type(error).__name__}: {error}"
        raise PhotoError("the photo's file cannot be read", found=found, hint="open it with 'rb' first") from None


@contextmanager
def _rewound(file: Any) -> Iterator[None]:
    """``file`` at its beginning, and afterwards where it was; unchanged if it cannot seek."""
    try:
        position = file.tell()
        file.seek(0)
    except (AttributeError, TypeError, OSError):
        yield
        return
    try:
        yield
    finally:
        with suppress(Exception):
            file.seek(position)


def _read_all(file: Any, name: str) -> bytes:
    """Everything up to the end, but never much more than a photo may have."""
    data = BytesIO()  # grows in place
    while chunk := file.read(CHUNK_BYTES):
        if not isinstance(chunk, bytes | bytearray | memoryview):
            if inspect.iscoroutine(chunk):
                chunk.close()
            found = f"{name} whose read() gives {type(chunk).__name__}"
            raise PhotoError("the photo's file does not give bytes", found=found, hint="open it with 'rb'")
        data.write(chunk)
        _check_bytes(data.tell(), name)
    return data.getvalue()


def _check_bytes(size: int, name: str) -> None:
    if size > limits.MAX_FILE_BYTES:
        found = f"{name}: {size:,} bytes"
        hint = f"give a file of at most {limits.MAX_FILE_BYTES // 1_000_000} MB"
        raise PhotoError("the photo's file is too large", found=found, hint=hint)
