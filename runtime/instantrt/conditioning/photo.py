"""Photos in, upright RGB arrays out. Everything a user can get wrong with a photo is a :class:`PhotoError`."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from instantrt.errors import PhotoError

Photo = npt.NDArray[np.uint8]
PhotoSource = str | Path | bytes | Image.Image | npt.NDArray[np.uint8]

LONGEST_SIDE_PX = 1280  # larger photos are shrunk: neither the face networks nor the pictures use more
SHORTEST_SIDE_PX = 32
MAX_PIXELS = 80_000_000  # below the size at which Pillow warns of a decompression bomb
MAX_FILE_BYTES = 100_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # an allow-list: some of Pillow's others run programs

_FILES = "give a JPEG, PNG or WebP file"
_WHITE = (255, 255, 255, 255)


def decode_photo(source: PhotoSource) -> Photo:
    """Decode a photo to u8 RGB [H, W, 3], upright by its EXIF orientation, longest side at most 1280 px.

    Transparent parts are laid over white. 16-bit photos keep their 8 high bits. Colour profiles are ignored: the
    numbers in the file are taken as sRGB.

    Args:
        source: a path, the bytes of an image file, a PIL image, or a u8 array [H, W] grey, [H, W, 3] RGB or
            [H, W, 4] RGBA.

    Raises:
        PhotoError: the photo is missing, unreadable, damaged, too large or too small; says which.
    """
    if isinstance(source, np.ndarray):
        pixels = _rgb_from_array(source)
    elif isinstance(source, Image.Image):
        pixels = _rgb_from_image(source)
    elif isinstance(source, bytes):
        pixels = _rgb_from_file(source)
    else:
        pixels = _rgb_from_file(_read(Path(source)))
    return _bounded(pixels)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise PhotoError("the photo's file is too large", found=f"{path}: {size:,} bytes", hint=_FILES)
        return path.read_bytes()
    except FileNotFoundError:
        raise PhotoError("the photo does not exist", found=str(path), hint="check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        raise PhotoError("the photo cannot be read", found=f"{path}: {error}", hint=_FILES) from None


def _rgb_from_file(data: bytes) -> Photo:
    if not data:
        raise PhotoError("the photo is empty", found="0 bytes", hint=_FILES)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels("a size that Pillow takes for a decompression bomb") from None
    except Exception as error:  # Pillow's parsers raise whatever damaged bytes lead them to
        found = f"{len(data):,} bytes that begin with {data[:8]!r} ({type(error).__name__})"
        raise PhotoError("the photo is not an image that can be read", found=found, hint=_FILES) from None
    with image:
        return _rgb_from_image(image)


def _rgb_from_image(image: Image.Image) -> Photo:
    width, height = image.size
    _check_size(width, height)
    # A JPEG decoder can leave out high frequencies and give 1/2, 1/4 or 1/8 of the size, never below what is asked.
    image.draft(image.mode, (LONGEST_SIDE_PX, LONGEST_SIDE_PX))
    try:
        return np.asarray(_flat_rgb(ImageOps.exif_transpose(image)))
    except PhotoError:
        raise
    except Exception as error:  # as above: truncated or damaged data
        found = f"{image.format or 'image'} of {width} x {height} pixels: {error}"
        raise PhotoError("the photo is damaged or incomplete", found=found, hint="save or send it again") from None


def _flat_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise PhotoError("the photo has floating-point pixels", found="mode F", hint="convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        high_bits = np.clip(np.asarray(image).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(high_bits).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image.convert("RGB")


def _rgb_from_array(array: npt.NDArray[np.uint8]) -> Photo:
    found = f"{array.dtype} array of shape {array.shape}"
    if array.dtype != np.uint8:
        raise PhotoError("a photo given as an array must be uint8, 0-255", found=found, hint="convert it with astype")
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        hint = "the shape is [H, W], [H, W, 3] or [H, W, 4]"
        raise PhotoError("the array is not a photo", found=found, hint=hint)
    _check_size(array.shape[1], array.shape[0])
    if channels == 1:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if channels == 4:
        return np.asarray(_flat_rgb(Image.fromarray(np.ascontiguousarray(array))))
    return array


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _too_many_pixels(f"{width} x {height} pixels")
    if min(width, height) < SHORTEST_SIDE_PX:
        found = f"{width} x {height} pixels"
        hint = f"give one of at least {SHORTEST_SIDE_PX} pixels a side; a face needs about 100"
        raise PhotoError("the photo is too small", found=found, hint=hint)


def _too_many_pixels(found: str) -> PhotoError:
    hint = f"shrink it to at most {MAX_PIXELS // 1_000_000} million pixels"
    return PhotoError("the photo has too many pixels", found=found, hint=hint)


def _bounded(pixels: Photo) -> Photo:
    """At most 1280 px long, by area averaging; a contiguous array of its own."""
    height, width = pixels.shape[:2]
    scale = LONGEST_SIDE_PX / max(width, height)
    if scale >= 1:
        return np.array(pixels, order="C")
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA), np.uint8)
