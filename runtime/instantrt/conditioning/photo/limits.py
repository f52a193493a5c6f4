"""What a photo may be at most and at least, and what is told about one that is not."""

from __future__ import annotations

from collections.abc import Mapping

from instantrt.errors import PhotoError

LONGEST_SIDE_PX = 1280  # larger photos are shrunk: neither the face networks nor the pictures use more
SHORTEST_SIDE_PX = 32
MAX_PIXELS = 80_000_000  # below the size at which Pillow warns of a decompression bomb
MAX_PIXELS_OF: Mapping[str, int] = {"WEBP": 40_000_000}  # its decoder holds four copies, 16 bytes per pixel
MAX_FILE_BYTES = 100_000_000
PIXELS_AT_ONCE = 16_000_000  # photos with more are shrunk in strips first, so that no second copy of them is made

FILE_HINT = "give a JPEG, PNG or WebP file"


def check_size(width: int, height: int, format_name: str | None = None) -> None:
    """Raise :class:`PhotoError` for a photo of too many or too few pixels, for its file format if it comes from one."""
    most = MAX_PIXELS_OF.get(format_name or "", MAX_PIXELS)
    if width * height > most:
        raise too_many_pixels(f"{width} x {height} pixels", most)
    if min(width, height) < SHORTEST_SIDE_PX:
        found = f"{width} x {height} pixels"
        hint = f"give one of at least {SHORTEST_SIDE_PX} pixels a side; a face needs about 100"
        raise PhotoError("the photo is too small", found=found, hint=hint)


def too_many_pixels(found: str, most: int = MAX_PIXELS) -> PhotoError:
    """The error for a photo that would take too much memory."""
    hint = f"shrink it to at most {most // 1_000_000} million pixels"
    return PhotoError("the photo has too many pixels", found=found, hint=hint)
