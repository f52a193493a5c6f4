"""Square views of a photo, as large as a face detector's input, and the way back from view to photo pixels."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Photo = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """A part of a photo on a square canvas: ``view = photo * scale + offset``, x and y apart.

    Args:
        pixels: u8 [px, px, 3].
        scale: f32 [2], view pixels per photo pixel.
        offset: f32 [2], where the photo's top left corner lies in the view.
    """

    pixels: Photo
    scale: Floats
    offset: Floats

    def to_photo(self, xy: Floats) -> Floats:
        """Points f32 [..., 2] of the view, in photo pixels."""
        return np.asarray((xy - self.offset) / self.scale, np.float32)


@dataclass(frozen=True)
class Window:
    """A square of photo pixels that may reach beyond the photo. ``x`` and ``y`` are its top left corner."""

    x: float
    y: float
    side: float


def letterbox(photo: Photo, px: int, longest_px: int) -> View:
    """The whole photo, its longest side ``longest_px``, at the top left of a black view of ``px`` pixels.

    Sizes are rounded as insightface rounds them.
    """
    height, width = photo.shape[:2]
    ratio = height / width
    if ratio > 1:
        new_height, new_width = longest_px, int(longest_px / ratio)
    else:
        new_height, new_width = int(longest_px * ratio), longest_px
    new_height, new_width = max(1, new_height), max(1, new_width)
    pixels = np.zeros((px, px, 3), np.uint8)
    pixels[:new_height, :new_width] = cv2.resize(photo, (new_width, new_height))
    scale = np.float32(new_height / height)
    return View(pixels, np.array([scale, scale], np.float32), np.zeros(2, np.float32))


def view_of(photo: Photo, window: Window, px: int) -> View:
    """The ``window`` of the photo, scaled to ``px`` pixels; what lies beyond the photo has the part's mean colour."""
    zoom = px / window.side
    left, right = _shown(window.x, window.side, photo.shape[1])
    top, bottom = _shown(window.y, window.side, photo.shape[0])
    target = [_placed(edge - start, zoom, px) for edge, start in zip((left, top), (window.x, window.y), strict=True)]
    size = [
        max(1, min(px - at, round((high - low) * zoom)))
        for at, low, high in zip(target, (left, top), (right, bottom), strict=True)
    ]
    part = cv2.resize(
        photo[top:bottom, left:right], size, interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    )
    (left_px, top_px), (width_px, height_px) = target, size
    borders = top_px, px - top_px - height_px, left_px, px - left_px - width_px
    colour = [int(value) for value in cv2.mean(part)[:3]]
    pixels = np.asarray(cv2.copyMakeBorder(part, *borders, cv2.BORDER_CONSTANT, value=colour), np.uint8)
    scale = np.array([size[0] / (right - left), size[1] / (bottom - top)], np.float32)
    return View(pixels, scale, np.array(target, np.float32) - scale * np.array([left, top], np.float32))


def _shown(start: float, side: float, length: int) -> tuple[int, int]:
    """The whole pixels of the photo that a window shows along one axis, at least one."""
    low = min(max(0, int(start)), length - 1)
    return low, max(low + 1, min(length, round(start + side)))


def _placed(distance: float, zoom: float, px: int) -> int:
    return min(max(0, round(distance * zoom)), px - 1)
