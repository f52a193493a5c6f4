"""For which picture sizes a bundle is exported: what the checkpoint and the options say, and what is no answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from doubles.checkpoints import rewrite_config
from instantrt.bundle import PictureSizes
from instantrt.cli import main
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.picture_sizes import export_shapes, picture_sizes
from instantrt_export.shapes import ExportOptionError

SMALL, OWN, LARGE = (64, 64), (128, 128), (256, 192)


@pytest.fixture(scope="module")
def checkpoint(nano_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(nano_checkpoint)


def with_sample_size(folder: Path, value: object) -> Checkpoint:
    rewrite_config(folder / "unet" / "config.json", sample_size=value)
    return Checkpoint.open(folder)


@pytest.mark.parametrize(("value", "size"), [(16, (128, 128)), ([16, 24], (192, 128)), ([8, 8], (64, 64))])
def test_the_checkpoints_own_size_is_one_number_or_height_and_width(folder: Path, value: object, size: tuple) -> None:
    sizes = picture_sizes(with_sample_size(folder, value), None, None, None)
    assert sizes == PictureSizes(size, size, size)


@pytest.mark.parametrize("value", [None, [16], "16", [16, "x"], {}])
def test_without_a_size_of_its_own_one_must_be_named_and_is_enough(folder: Path, value: object) -> None:
    checkpoint = with_sample_size(folder, value)
    with pytest.raises(ExportOptionError, match=r"(?s)does not say.*sample_size.*config\.json.*--size 1024x1024"):
        picture_sizes(checkpoint, None, SMALL, LARGE)
    assert picture_sizes(checkpoint, OWN, None, None) == PictureSizes(OWN, OWN, OWN)
    assert picture_sizes(checkpoint, OWN, SMALL, LARGE) == PictureSizes(OWN, SMALL, LARGE)


def test_a_config_without_the_key_is_as_one_that_says_nothing(folder: Path) -> None:
    import json

    path = folder / "unet" / "config.json"
    config = {key: value for key, value in json.loads(path.read_text()).items() if key != "sample_size"}
    path.unlink()
    path.write_text(json.dumps(config))
    checkpoint = Checkpoint.open(folder)
    with pytest.raises(ExportOptionError, match="sample_size None"):
        picture_sizes(checkpoint, None, None, None)
    assert picture_sizes(checkpoint, OWN, None, None).default == OWN


@pytest.mark.parametrize(
    ("size", "smallest", "largest", "said"),
    [
        (None, LARGE, SMALL, "--min-size is above the checkpoint's size\nFound: 256x192 and 128x128"),
        (OWN, LARGE, SMALL, "--min-size is above --size\nFound: 256x192 and 128x128"),
        (None, LARGE, None, "--min-size is above the checkpoint's size\nFound: 256x192 and 128x128"),
        (None, None, SMALL, "the checkpoint's size is above --max-size\nFound: 128x128 and 64x64"),
        (LARGE, None, OWN, "--size is above --max-size\nFound: 256x192 and 128x128"),
        ((100, 128), None, None, "multiples of 64\nFound: --size 100x128\nTo do: .*--size 128x128"),
        (OWN, (0, 64), None, "multiples of 64\nFound: --min-size 0x64"),
        (OWN, None, (256, 250), "multiples of 64\nFound: --max-size 256x250\nTo do: .*256x256"),
        (OWN, (64, 256), (256, 256), "--min-size is above --size\nFound: 64x256 and 128x128"),
    ],
)
def test_sizes_that_make_no_range_are_told_by_their_options(checkpoint, size, smallest, largest, said: str) -> None:
    with pytest.raises(ExportOptionError, match=said):
        picture_sizes(checkpoint, size, smallest, largest)


@pytest.mark.parametrize("slots", [0, -1])
def test_slots_start_at_one(slots: int) -> None:
    with pytest.raises(ExportOptionError, match=r"slots must be at least 1.*\nFound: .*\nTo do: leave the option out"):
        export_shapes(PictureSizes(OWN, OWN, OWN), slots)


@pytest.mark.parametrize("slots", ["0", "-1", "many"])
def test_slots_on_the_command_line_are_a_number_from_one(tmp_path: Path, slots: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", "nowhere", "--out", str(tmp_path / "bundle"), "--slots", slots])
    assert caught.value.code == 2
    assert f"{slots!r} is not a whole number from 1" in capsys.readouterr().err
