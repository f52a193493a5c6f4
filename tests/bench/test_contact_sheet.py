"""The demo's picture: tiles where they belong, small pictures enlarged pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest

from instantrt_bench.results.contact_sheet import MARGIN_PX, TITLE_PX, Tile, amplified_difference, contact_sheet
from randomness import fresh_rng

TOP = MARGIN_PX + TITLE_PX + MARGIN_PX


def noise(height: int, width: int) -> np.ndarray:
    return fresh_rng().integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_small_picture_is_enlarged_by_repeating_its_pixels() -> None:
    small = noise(128, 64)
    sheet = np.asarray(contact_sheet([Tile("small", small)], "title", "footer", height_px=384))
    tile = sheet[TOP : TOP + 384, MARGIN_PX : MARGIN_PX + 192]
    np.testing.assert_array_equal(tile, small.repeat(3, axis=0).repeat(3, axis=1))


def test_tiles_stand_side_by_side_with_room_for_each_width() -> None:
    tiles = [Tile("a", noise(96, 96)), Tile("b", noise(96, 48), "note"), Tile("c", noise(500, 700))]
    sheet = contact_sheet(tiles, "title", "footer", height_px=192)
    assert sheet.width == 4 * MARGIN_PX + 192 + 96 + round(700 * 192 / 500)
    second = np.asarray(sheet)[TOP : TOP + 192, 2 * MARGIN_PX + 192 :][:, :96]
    np.testing.assert_array_equal(second[::2, ::2], tiles[1].picture)


def test_every_text_leaves_ink() -> None:
    tile = np.zeros((64, 64, 3), np.uint8)
    texts = ("title", "label", "note", "footer")
    blank = dict.fromkeys(texts, "")

    def sheet(**changed: str) -> np.ndarray:
        t = blank | changed
        return np.asarray(contact_sheet([Tile(t["label"], tile, t["note"])], t["title"], t["footer"]), int)

    inked = [np.argwhere(np.abs(sheet(**{name: "Text"}) - sheet()).sum(-1))[:, 0].mean() for name in texts]
    assert inked == sorted(inked)  # from top to bottom: title, label, note, footer


@pytest.mark.parametrize("gain", [1, 64])
def test_the_difference_is_amplified_both_ways_and_clipped(gain: int) -> None:
    a, b = noise(8, 8), noise(8, 8)
    b[0, 0], a[0, 0] = 3, 1
    found = amplified_difference(a, b, gain)
    np.testing.assert_array_equal(found, amplified_difference(b, a, gain))
    np.testing.assert_array_equal(found[0, 0], 2 * gain)
    expected = np.clip(gain * np.abs(a.astype(float) - b), 0, 255)
    np.testing.assert_array_equal(found, expected)
