"""From decoded pictures of every mode to upright sRGB arrays of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from instantrt.conditioning.photo import limits
from instantrt.conditioning.photo.colours import colours_of, rgb_from_lab
from instantrt.errors import PhotoError

Pixels = npt.NDArray[np.uint8]

STRIP_PIXELS = 1_000_000  # pictures are converted in strips of about so many pixels

_WHITE = (255, 255, 255, 255)
_PREMULTIPLIED: Mapping[str, str] = {"La": "LA", "RGBa": "RGBA"}

UPRIGHT: Mapping[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
"""By EXIF orientation, how a stored picture is turned."""


def pixels_of_image(image: Image.Image) -> tuple[Pixels, tuple[str, ...]]:
    """A picture in memory, of any mode, as u8 RGB [H, W, 3], and what the user should know of it.

    Raises:
        PhotoError: too large, too small, or of floating-point numbers.
    """
    limits.check_size(*image.size)
    turn, warnings = _turn(image)
    colours = colours_of(image)
    pixels = bounded(turn(_in_mode(image, colours.mode)))
    return colours.to_srgb(pixels), warnings + colours.warnings


def pixels_of_array(array: npt.NDArray[np.uint8]) -> Pixels:
    """A u8 array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] as RGB [H, W, 3].

    Raises:
        PhotoError: of another dtype or shape, too large or too small.
    """
    found = f"{array.dtype} array of shape {array.shape}"
    if array.dtype != np.uint8:
        raise PhotoError("a photo given as an array must be uint8, 0-255", found=found, hint="convert it with astype")
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        hint = "the shape is [H, W], [H, W, 3] or [H, W, 4]"
        raise PhotoError("the array is not a photo", found=found, hint=hint)
    height, width = array.shape[:2]
    limits.check_size(width, height)
    if channels == 4:
        return bounded(_in_mode(Image.fromarray(np.ascontiguousarray(array)), "RGB"))
    pixels = bounded(array.reshape(height, width, channels))
    return np.repeat(pixels, 3, axis=2) if channels == 1 else pixels


def bounded(pixels: Pixels) -> Pixels:
    """At most 1280 px long, by area averaging; a contiguous array [H, W, channels] of its own."""
    height, width, channels = pixels.shape
    scale = limits.LONGEST_SIDE_PX / max(width, height)
    if scale >= 1:
        return np.array(pixels, order="C")
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    shrunk = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk, np.uint8).reshape(size[1], size[0], channels)


def _in_mode(image: Image.Image, mode: str) -> Pixels:
    """``image`` in L, RGB or CMYK, u8 [H, W, channels], strip by strip; a very large one shrunk on the way."""
    width, height = image.size
    factor = 1
    if width * height > limits.PIXELS_AT_ONCE:  # so longer than 4000 px: at least 1280 are left
        factor = max(2, max(width, height) // (2 * limits.LONGEST_SIDE_PX))
    rows = factor * max(1, STRIP_PIXELS // (width * factor))
    shape = (-(-height // factor), -(-width // factor), len(Image.new(mode, (1, 1)).getbands()))
    pixels = np.empty(shape, np.uint8)
    for top in range(0, height, rows):
        strip = _plain(image.crop((0, top, width, min(top + rows, height))), mode)
        strip = strip.reduce(factor) if factor > 1 else strip
        pixels[top // factor : (top + rows) // factor] = np.asarray(strip).reshape(-1, *shape[1:])
    return pixels


def _plain(image: Image.Image, mode: str) -> Image.Image:
    """In ``mode``: transparent parts over white, of 16 bits the 8 high ones."""
    if image.mode == "F":
        raise PhotoError("the photo has floating-point pixels", found="mode F", hint="convert it to 8 or 16 bits")
    if image.mode.startswith("I"):
        return Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)).convert(mode)
    if image.mode == "LAB":
        return rgb_from_lab(image).convert(mode)
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            image = Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image)
    return image if image.mode == mode else image.convert(mode)


def _turn(image: Image.Image) -> tuple[Callable[[Pixels], Pixels], tuple[str, ...]]:
    """How the picture is turned upright by its EXIF, and a warning if that cannot be read."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return UPRIGHT.get(orientation, lambda pixels: pixels), ()
    except Exception:  # Pillow's parsers raise whatever broken metadata leads them to
        return lambda pixels: pixels, ("its EXIF data is damaged, it is taken to be upright",)
