"""Pictures side by side with labels, small ones enlarged without smoothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

BACKGROUND, TITLE, INK, FAINT = (24, 26, 30), (255, 255, 255), (225, 228, 232), (150, 156, 164)
MARGIN_PX = 24
TITLE_PX, LABEL_PX, NOTE_PX = 26, 20, 15


@dataclass(frozen=True)
class Tile:
    """One labelled picture ``[H,W,3]``; ``note`` stands below the label in small print."""

    label: str
    picture: npt.NDArray[np.uint8]
    note: str = ""


def contact_sheet(tiles: Sequence[Tile], title: str, footer: str, height_px: int = 384) -> Image.Image:
    """The tiles in a row, each ``height_px`` high, under ``title`` and above ``footer``."""
    pictures = [_scaled(tile.picture, height_px) for tile in tiles]
    top = MARGIN_PX + TITLE_PX + MARGIN_PX
    labels_top = top + height_px + MARGIN_PX // 2
    footer_top = labels_top + LABEL_PX + NOTE_PX + MARGIN_PX + MARGIN_PX // 2
    size = (
        MARGIN_PX + sum(picture.width + MARGIN_PX for picture in pictures),
        footer_top + NOTE_PX + MARGIN_PX,
    )
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN_PX, MARGIN_PX - 4), title, TITLE, _font(TITLE_PX))
    left = MARGIN_PX
    for tile, picture in zip(tiles, pictures, strict=True):
        sheet.paste(picture, (left, top))
        draw.text((left, labels_top), tile.label, INK, _font(LABEL_PX))
        draw.text((left, labels_top + LABEL_PX + 8), tile.note, FAINT, _font(NOTE_PX))
        left += picture.width + MARGIN_PX
    draw.text((MARGIN_PX, footer_top), footer, FAINT, _font(NOTE_PX))
    return sheet


def amplified_difference(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], gain: int) -> npt.NDArray[np.uint8]:
    """``gain`` times the absolute difference of two pictures, clipped at white."""
    difference = np.abs(a.astype(np.int32) - b.astype(np.int32))
    return np.asarray(np.minimum(gain * difference, 255), dtype=np.uint8)


def _scaled(picture: npt.NDArray[np.uint8], height_px: int) -> Image.Image:
    """To ``height_px``: whole pixels are repeated if the height divides it, else resampled."""
    image = Image.fromarray(picture)
    size = (round(image.width * height_px / image.height), height_px)
    return image.resize(size, Image.Resampling.NEAREST if height_px % image.height == 0 else Image.Resampling.LANCZOS)


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)
