"""The demo's photo: scikit-image's portrait of astronaut Eileen Collins, taken by NASA and in the public domain."""

from __future__ import annotations

from io import BytesIO

from PIL import Image
from skimage.data import astronaut


def portrait_png() -> bytes:
    """The photo, 512x512 RGB, as the bytes of a PNG file."""
    file = BytesIO()
    Image.fromarray(astronaut()).save(file, format="PNG")
    return file.getvalue()
