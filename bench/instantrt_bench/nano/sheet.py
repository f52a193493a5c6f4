"""Contact sheets of the nano report: people by styles, and the same cases with other options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from instantrt.conditioning.photo import decode_photo
from instantrt_bench.nano.cases import face_photo
from instantrt_bench.nano.evaluate import Seen

BACKGROUND, INK = (24, 26, 30), (225, 228, 232)
TILE_PX, GAP_PX, TEXT_PX = 128, 4, 16
POSES_SHOWN = 3

Picture = npt.NDArray[np.uint8]


def people_sheet(seen: Sequence[Seen]) -> Image.Image:
    """One row per person: the photo, then each style in a few poses."""
    styles = list(dict.fromkeys(one.asked.style for one in seen))
    shown = min(POSES_SHOWN, len(_of(seen, seen[0].asked.person, styles[0])))
    rows = {
        person: [_photo(person), *(one.picture for s in styles for one in _of(seen, person, s)[:shown])]
        for person in dict.fromkeys(one.asked.person for one in seen)
    }
    heads = ["photo given", *(style if i == 0 else "" for style in styles for i in range(shown))]
    return _grid(rows, heads)


def strengths_sheet(by_strength: Mapping[str, Sequence[Seen]]) -> Image.Image:
    """One row per variation, the same cases in the same columns."""
    most = max(len(seen) for seen in by_strength.values())
    every = max(1, most // 12)
    return _grid({name: [one.picture for one in seen[::every]] for name, seen in by_strength.items()}, [])


def _of(seen: Sequence[Seen], person: str, style: str) -> list[Seen]:
    return [one for one in seen if (one.asked.person, one.asked.style) == (person, style)]


def _photo(person: str) -> Picture:
    photo = Image.fromarray(decode_photo(face_photo(person)).pixels)
    side = photo.width * 2 // 3
    left, top = (photo.width - side) // 2, (photo.height - side) // 3
    return np.asarray(photo.crop((left, top, left + side, top + side)).resize((TILE_PX, TILE_PX), Image.Resampling.BOX))


def _grid(rows: Mapping[str, Sequence[Picture]], heads: Sequence[str]) -> Image.Image:
    """Labelled rows of pictures under column heads."""
    columns, label_px = max(len(row) for row in rows.values()), 130
    size = (label_px + columns * (TILE_PX + GAP_PX), 28 + len(rows) * (TILE_PX + GAP_PX))
    sheet = Image.new("RGB", size, BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_PX)
    for column, head in enumerate(heads):
        draw.text((label_px + column * (TILE_PX + GAP_PX), 5), head, INK, font)
    for i, (name, pictures) in enumerate(rows.items()):
        top = 28 + i * (TILE_PX + GAP_PX)
        draw.text((8, top + TILE_PX // 2 - TEXT_PX), name, INK, font)
        for column, picture in enumerate(pictures):
            sheet.paste(Image.fromarray(picture), (label_px + column * (TILE_PX + GAP_PX), top))
    return sheet
