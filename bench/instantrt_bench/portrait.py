"""The demo's photo: scikit-image's portrait of astronaut Eileen Collins, taken by NASA and in the public domain."""

from __future__ import annotations

from io import BytesIO

from PIL import Image
from skimage.data import astronaut

MARK_PX = 16


def portrait_jpeg(variant: int = 0) -> bytes:
    """The photo, 512x512 RGB, as the bytes of a JPEG file.

    ``variant`` 1 to 255 paints a corner in that grey level: another photo of the same face and of the same work.
    """
    photo = astronaut().copy()
    if variant:
        photo[:MARK_PX, :MARK_PX] = variant
    file = BytesIO()
    Image.fromarray(photo).save(file, format="JPEG", quality=95)
    return file.getvalue()
