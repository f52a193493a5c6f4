"""The demo's photo: scikit-image's portrait of astronaut Eileen Collins, taken by NASA and in the public domain."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage.data import astronaut

from instantrt.conditioning.photo import decode_photo

MARK_PX = 16
MAX_VARIANT = 2**16 - 1


def portrait_jpeg(variant: int = 0, photo: bytes | None = None) -> bytes:
    """A photo, by default the portrait of 512x512 RGB, as the bytes of a JPEG file.

    ``variant`` 1 to :data:`MAX_VARIANT` paints its digits to the base of 256 into a corner as two grey levels: another
    photo of the same face and of the same work.
    """
    if not 0 <= variant <= MAX_VARIANT:
        raise ValueError(f"variants go from 0 to {MAX_VARIANT}, not {variant}")
    pixels: npt.NDArray[np.uint8] = astronaut() if photo is None else decode_photo(photo).pixels
    if variant:
        pixels = pixels.copy()
        pixels[:MARK_PX, :MARK_PX] = variant % 256
        pixels[:MARK_PX, MARK_PX : 2 * MARK_PX] = variant // 256
    file = BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=95)
    return file.getvalue()
