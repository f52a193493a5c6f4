"""Colour profiles: what a photo's numbers mean, and the way to sRGB."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageCms

from instantrt.conditioning.photo.adobe_rgb import adobe_rgb_profile

SAME_COLOUR = 2  # of 255: a profile that moves no colour further is sRGB, written or rounded in another way

_MODES: Mapping[str, str] = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""ICC's names of colour spaces, and the PIL modes whose numbers they are about."""
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")
_NOT_USABLE = ("its colour profile cannot be used, its colours are taken as sRGB",)


@dataclass(frozen=True)
class Colours:
    """What a photo's numbers mean.

    Args:
        mode: the PIL mode that the photo is to be brought to: L, RGB or CMYK.
        transform: from there to sRGB; None where they are sRGB.
        warnings: what the user should know.
    """

    mode: str = "RGB"
    transform: ImageCms.ImageCmsTransform | None = None
    warnings: tuple[str, ...] = ()

    def to_srgb(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """``pixels`` u8 [H, W, channels of ``mode``] as sRGB u8 [H, W, 3]."""
        if self.transform is None:
            return pixels
        height, width = pixels.shape[:2]
        image = Image.frombytes(self.mode, (width, height), np.ascontiguousarray(pixels).tobytes())
        return np.array(self.transform.apply(image))


def colours_of(image: Image.Image) -> Colours:
    """By the ICC profile of ``image`` or what its EXIF says instead. A profile that is of no use is a warning."""
    data = image.info.get("icc_profile") or (adobe_rgb_profile() if _is_adobe_rgb(image) else None)
    if not data:
        return Colours()
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(data))
        mode = _MODES.get(profile.profile.xcolor_space.strip())
        if mode is None or not _is_about(mode, image.mode):
            return Colours(warnings=_NOT_USABLE)
        transform = _transform(profile, mode)
    except Exception:  # LittleCMS and Pillow's wrapper raise whatever broken tables lead them to
        return Colours(warnings=_NOT_USABLE)
    return Colours() if mode == "RGB" and _is_srgb(transform) else Colours(mode, transform)


def rgb_from_lab(image: Image.Image) -> Image.Image:
    """A picture of mode LAB, which Pillow itself does not convert, in sRGB."""
    return _transform(ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB").apply(image)


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Whether a camera says so: the DCF standard has it name its optional colour space R03, without a profile."""
    try:
        index = image.getexif().get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
    except Exception:  # broken metadata, of which the orientation tells
        return False
    return index == "R03" and image.mode == "RGB"


def _is_about(mode: str, image_mode: str) -> bool:
    """Whether numbers of a profile's ``mode`` can be had from ``image_mode``. Grey is RGB with equal numbers, too."""
    if image_mode == "CMYK":
        return mode == "CMYK"
    if mode == "L":
        return image_mode.split(";")[0] in _GREY_MODES
    return mode == "RGB"


def _transform(profile: ImageCms.ImageCmsProfile, mode: str) -> ImageCms.ImageCmsTransform:
    """Relative colorimetric with black point compensation, as photo editors convert by default."""
    return ImageCms.ImageCmsTransform(
        profile,
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")),
        mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )


def _is_srgb(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether ``transform`` moves none of 9 x 9 x 9 colours noticeably."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(27, 27, 3)
    moved = np.asarray(transform.apply(Image.fromarray(colours)))
    return int(np.abs(moved.astype(int) - colours).max()) <= SAME_COLOUR
