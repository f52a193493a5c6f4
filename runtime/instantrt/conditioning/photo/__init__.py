"""Photos in, upright RGB arrays out. Everything a user can get wrong with a photo is a :class:`PhotoError`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from instantrt.conditioning.photo.file import damaged, load_file
from instantrt.conditioning.photo.limits import LONGEST_SIDE_PX, MAX_PIXELS
from instantrt.conditioning.photo.pixels import pixels_of_array, pixels_of_image
from instantrt.conditioning.photo.source import ImageFileBytes, PhotoSource, read_source
from instantrt.conditioning.photo.without_warnings import without_warnings
from instantrt.errors import PhotoError

__all__ = ["LONGEST_SIDE_PX", "MAX_PIXELS", "DecodedPhoto", "PhotoSource", "decode_photo"]


@dataclass(frozen=True)
class DecodedPhoto:
    """A photo, upright.

    Args:
        pixels: u8 sRGB [H, W, 3], contiguous, longest side at most 1280 px; nobody else's memory.
        warnings: what was odd about it and did not keep it from being read, e.g. that its last bytes are missing.
    """

    pixels: npt.NDArray[np.uint8]
    warnings: tuple[str, ...] = ()


def decode_photo(source: PhotoSource) -> DecodedPhoto:
    """Decode a photo to u8 sRGB [H, W, 3], upright by its EXIF orientation, longest side at most 1280 px.

    Transparent parts are laid over white. 16-bit photos keep their 8 high bits. Colours are converted to sRGB by the
    photo's ICC profile; without one, and in arrays, the numbers are taken as sRGB. Of several pictures in a file the
    first is used, or the one at which a PIL image stands. The result depends on no filter of Python warnings, and
    no warning of Pillow's is shown.

    Args:
        source: what the photo is in. It is left as it is.

            * a path: ``str`` or ``os.PathLike``;
            * the bytes of an image file: ``bytes``, ``bytearray`` or ``memoryview``;
            * a file opened with "rb", a ``BytesIO`` or anything else with ``read``: read from its beginning, as Pillow
              does, and put back to where it stood; one that cannot seek is read from where it stands and used up;
            * a PIL image; one that is not decoded yet stays so, and its file stays where it is;
            * a u8 array [H, W] or [H, W, 1] grey, [H, W, 3] RGB or [H, W, 4] RGBA, with any strides.

    Raises:
        PhotoError: the photo is of another kind, missing, unreadable, damaged, too large or too small; says which.
    """
    with without_warnings():
        photo = read_source(source)
        if isinstance(photo, np.ndarray):
            return DecodedPhoto(pixels_of_array(photo))
        warnings: tuple[str, ...] = ()
        if isinstance(photo, ImageFileBytes):
            photo, warnings = load_file(photo)
        try:
            pixels, more = pixels_of_image(photo)
        except PhotoError:
            raise
        except Exception as error:  # Pillow's conversions raise whatever damaged data leads them to
            raise damaged(f"{photo.format or 'image'} of {photo.width} x {photo.height} pixels: {error}") from None
        return DecodedPhoto(pixels, warnings + more)
