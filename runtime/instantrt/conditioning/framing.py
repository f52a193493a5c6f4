"""From photo to picture: the photo is scaled to cover the picture and cropped around the face."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Framing:
    """Photo pixels to picture pixels: ``picture = photo * scale + offset``, the origin at the top left corner.

    Args:
        scale: picture pixels per photo pixel.
        offset_x: picture pixels, never positive: the photo covers the picture.
        offset_y: likewise.
    """

    scale: float
    offset_x: int
    offset_y: int

    def points(self, xy: Floats) -> Floats:
        """Points f32 [..., 2] of the photo, in picture pixels."""
        return np.asarray(xy * self.scale + (self.offset_x, self.offset_y), np.float32)

    def box(self, box: Floats) -> Floats:
        """A box f32 [4] (x1, y1, x2, y2) of the photo, in picture pixels; not clipped to the picture."""
        return self.points(box.reshape(2, 2)).reshape(4)

    def apply(self, photo: npt.NDArray[np.uint8], width: int, height: int) -> npt.NDArray[np.uint8]:
        """The part of u8 ``photo`` [h, w, 3] that the picture shows, u8 [height, width, 3]."""
        if self.scale < 1:
            size = (round(photo.shape[1] * self.scale), round(photo.shape[0] * self.scale))
            scaled = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
            left, top = -self.offset_x, -self.offset_y
            return np.array(scaled[top : top + height, left : left + width], np.uint8)
        # Only the part that is shown is enlarged. For warpAffine pixel centres lie at whole numbers.
        shift = (self.scale - 1) / 2
        matrix = np.array([[self.scale, 0, self.offset_x + shift], [0, self.scale, self.offset_y + shift]])
        shown = cv2.warpAffine(photo, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(shown, np.uint8)


def frame_photo(photo_width: int, photo_height: int, face_box: Floats, width: int, height: int) -> Framing:
    """Cover a ``width`` x ``height`` picture with the photo, the face in the middle as far as the photo reaches.

    Args:
        photo_width: pixels.
        photo_height: pixels.
        face_box: f32 [4], x1, y1, x2, y2 in photo pixels.
        width: of the picture, pixels.
        height: likewise.
    """
    scale = max(width / photo_width, height / photo_height)
    centre_x, centre_y = (face_box[:2] + face_box[2:]) / 2 * scale
    return Framing(
        scale,
        _offset(width, centre_x, photo_width * scale),
        _offset(height, centre_y, photo_height * scale),
    )


def _offset(side: int, centre: float, covered: float) -> int:
    """Where the scaled photo, ``covered`` pixels long, starts: within ``[side - covered, 0]``."""
    return -round(min(max(float(centre) - side / 2, 0), round(covered) - side))
