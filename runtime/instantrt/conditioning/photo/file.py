"""Image files: which format, decoded how far, and what is said about those that cannot be."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from io import BytesIO
from math import ceil

from PIL import Image, features

from instantrt.conditioning.photo import limits
from instantrt.conditioning.photo.source import ImageFileBytes
from instantrt.conditioning.photo.truncated import END_OF_IMAGE, has_all_scans, missing_rows
from instantrt.errors import PhotoError
from instantrt.plain import shortened

PLUGINS: Mapping[str, tuple[str, str]] = {
    "AVIF": ("pillow_avif", "pip install --upgrade pillow, to 11.3 or later"),
    "HEIF": ("pillow_heif", "pip install pillow-heif"),
}
"""For formats that Pillow may lack: the package that adds it, and what to do to have it."""
COMMON = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")
FORMATS = (*COMMON, *PLUGINS)  # an allow-list: some of Pillow's other formats run programs

MAX_MISSING_ROWS = 0.05  # of a JPEG without its last bytes, as a share of its rows
JPEGS = ("JPEG", "MPO")  # MPO: a JPEG with further ones behind it, as many phones write

_BEGINNINGS: tuple[tuple[bytes, str], ...] = (
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"8BPS", "Photoshop"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"PK\x03\x04", "ZIP"),
    (b"version https://git-lfs", "Git LFS pointer"),
    (b"<svg", "SVG"),
    (b"<!doctype html", "HTML"),
    (b"<html", "HTML"),
    (b"data:image/", "data URL"),
)


def load_file(file: ImageFileBytes) -> tuple[Image.Image, tuple[str, ...]]:
    """The picture of an image file, decoded but not yet turned upright, and what the user should know of it.

    JPEGs of more than 1280 pixels a side come out at 1/2, 1/4 or 1/8 of their size, never below 1280.

    Raises:
        PhotoError: empty, of an unknown or missing format, damaged, too large or too small.
    """
    image = _opened(file, file.data)
    found = f"{image.format} of {image.width} x {image.height} pixels"
    try:
        _load(image)
    except Exception as error:  # Pillow's decoders raise whatever truncated or damaged bytes lead them to
        if image.format not in JPEGS:
            raise damaged(f"{found}: {error}") from None
        image = _opened(file, file.data + END_OF_IMAGE)
        return image, _what_is_missing(image, file.data, found)
    return image, ()


def _what_is_missing(image: Image.Image, data: bytes, found: str) -> tuple[str, ...]:
    """Decode a JPEG that lacks its last bytes, as viewers do: what is missing is grey."""
    try:
        _load(image)
    except Exception as error:
        raise damaged(f"{found}: {error}") from None
    if not has_all_scans(data):
        raise damaged(f"{found}: it ends before all detail is there")
    missing = missing_rows(image) / image.height
    if missing > MAX_MISSING_ROWS:
        raise damaged(f"{found}: it ends early, {missing:.0%} of the rows are missing")
    return (f"the file lacks its last bytes, {missing:.1%} of the rows are missing",)


def _opened(file: ImageFileBytes, data: bytes) -> Image.Image:
    """The header read and checked, nothing decoded."""
    if not data:
        raise PhotoError("the photo is empty", found="0 bytes", hint=limits.FILE_HINT)
    if file.opened_as not in (None, *FORMATS, *JPEGS):
        what = "the image is not decoded yet, and of a format that is not decoded here"
        raise PhotoError(what, found=f"{file.opened_as}", hint="call its load() first, or save it as JPEG")
    name = format_name(data)
    added = [known for known in PLUGINS if known == name and _can_read(known)]
    try:
        image = Image.open(BytesIO(data), formats=(*COMMON, *added))
        if file.frame:
            image.seek(file.frame)
    except Image.DecompressionBombError:
        raise limits.too_many_pixels("a size that Pillow takes for a decompression bomb") from None
    except Exception as error:  # Pillow's parsers raise whatever damaged bytes lead them to
        found = f"{len(data):,} bytes that begin with {data[:8]!r} ({type(error).__name__})"
        raise _not_readable(name, found) from None
    limits.check_size(*image.size, image.format)
    return image


def _load(image: Image.Image) -> None:
    """Decode; a JPEG without its high frequencies where that gives 1/2, 1/4 or 1/8 of the size.

    Both sides stay at least 1280 px, or the longer one alone where that would leave too many pixels.
    """
    (width, height), longest = image.size, limits.LONGEST_SIDE_PX
    scale = max((s for s in (8, 4, 2) if min(width, height) >= s * longest), default=1)
    size = (longest, longest)
    if width * height > limits.PIXELS_AT_ONCE * scale**2:
        size = (ceil(width * longest / max(width, height)), ceil(height * longest / max(width, height)))
    image.draft(image.mode, size)
    image.load()


def _can_read(name: str) -> bool:
    """Whether Pillow reads a format of :data:`PLUGINS`, once the package that adds it is imported if it is there."""
    if not _is_registered(name):
        try:
            plugin = importlib.import_module(PLUGINS[name][0])  # pillow_avif registers itself
        except ImportError:
            return False
        if name == "HEIF":
            plugin.register_heif_opener()
    return _is_registered(name)


def _is_registered(name: str) -> bool:
    Image.init()
    lacks_library = name == "AVIF" and not features.check("avif") and PLUGINS[name][0] not in sys.modules
    return name in Image.OPEN and not lacks_library


def format_name(data: bytes) -> str | None:
    """The format of a file, if it is one that people mistake for a photo, or that Pillow may lack."""
    if data[4:8] == b"ftyp":
        brands = {data[i : i + 4] for i in range(8, 64, 4)}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIF" if brands & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"} else "video"
    beginning = data[:64].lstrip().lower()
    return next((name for start, name in _BEGINNINGS if beginning.startswith(start.lower())), None)


def _not_readable(name: str | None, found: str) -> PhotoError:
    if name is not None and name in PLUGINS and not _can_read(name):
        called = {"HEIF": "a HEIC"}.get(name, f"an {name}")
        hint = f"{PLUGINS[name][1]}; or save the photo as JPEG"
        return PhotoError(f"the photo is {called} file, which Pillow does not read here", found=found, hint=hint)
    if name in FORMATS:
        return damaged(f"{name} file of {found}")
    if name is None:
        return PhotoError("the photo is not an image that can be read", found=found, hint=limits.FILE_HINT)
    return PhotoError(f"the photo is not an image that can be read, but {name}", found=found, hint=limits.FILE_HINT)


def damaged(found: str) -> PhotoError:
    """The error for a photo that begins as one and does not go on so."""
    line = shortened(" ".join(found.split()))  # decoders' reasons can have several lines
    return PhotoError("the photo is damaged or incomplete", found=line, hint="save or send it again")
