"""Outputs are known to be writable before anything is made, and are written whole or not at all."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instantrt.cli.outputs import check_files, check_folder, save_picture
from instantrt.errors import OutputError


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "below"


WRONG: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a path below a file": (below_a_file, "Not a directory"),
    "a name too long": (lambda folder: folder / ("x" * 300), "File name too long"),
    "a folder with a name too long": (lambda folder: folder / ("x" * 300) / "below", "File name too long"),
    "a character that no name may have": (lambda folder: folder / "a\0b", "Invalid argument"),
    "half a character": (lambda folder: folder / "a\ud800", "'\\ud800', which no name can hold here"),
}


@pytest.mark.parametrize("what", WRONG)
@pytest.mark.parametrize("check", [check_folder, lambda path: check_files([path])], ids=["folder", "file"])
def test_what_cannot_be_written_is_told_before_it_is_made(
    what: str, check: Callable[[Path], None], tmp_path: Path
) -> None:
    make, found = WRONG[what]
    path = make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match="cannot be written") as error:
        check(path)
    assert error.value.found == found
    assert error.value.hint
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_is_no_folder_and_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="Not a directory"):
        check_folder(tmp_path / "file")
    with pytest.raises(OutputError, match="Is a directory"):
        check_files([tmp_path])


def test_checking_leaves_nothing_not_even_the_folders(tmp_path: Path) -> None:
    check_folder(tmp_path / "new" / "folder")
    check_files([tmp_path / "new" / "folder" / "a.png", tmp_path / "b.png"])
    assert list(tmp_path.iterdir()) == []


def test_no_two_outputs_are_one_file_and_none_is_an_input(tmp_path: Path) -> None:
    (tmp_path / "photo.png").touch()
    (tmp_path / "link.png").symlink_to("photo.png")
    for path in ("photo.png", "link.png", "new/../photo.png"):
        with pytest.raises(OutputError, match="would be replaced\nFound: a file which the command reads"):
            check_files([tmp_path / path], [str(tmp_path / "photo.png"), None])
    with pytest.raises(OutputError, match="which the command writes already"):
        check_files([tmp_path / "a", tmp_path / "b", tmp_path / "a"])
    check_files([Path(os.devnull), Path(os.devnull)])


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng().integers(0, 256, (64, 64, 3), np.uint8))


@pytest.mark.parametrize("suffix", [".png", ".JPG", ".jpeg", ".webp"])
def test_a_picture_has_the_format_of_its_suffix(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "new" / f"a{suffix}"
    save_picture(picture(), path)
    with Image.open(path) as image:
        assert image.size == (64, 64)
        assert image.format == {".png": "PNG", ".webp": "WEBP"}.get(suffix, "JPEG")
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@contextmanager
def files_of_at_most(count: int) -> Iterator[None]:
    """The system refuses to make files longer, as a full disk does in the middle of one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_picture_that_cannot_be_written_in_full_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_picture(picture(), path)
    before = path.read_bytes()
    with files_of_at_most(5000), pytest.raises(OutputError, match=r"a\.png cannot be written\nFound: File too large"):
        save_picture(picture(), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="No space left on device"):
        save_picture(picture(), tmp_path / "a.png")
