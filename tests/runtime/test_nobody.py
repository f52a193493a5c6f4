"""A user without an entry in the password file, without a home and without rights, as in `docker run --user 12345`."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from doubles.processes import NOBODY, instantrt, run_as_nobody


@pytest.fixture
def place(astronaut: npt.NDArray[np.uint8]) -> Iterator[Path]:
    """A folder that everybody may read, with a photo, and folders ``out`` and ``tmp`` that everybody may write to."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    Image.fromarray(astronaut).save(folder / "photo.jpg")
    for name in ("out", "tmp"):
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
    yield folder
    shutil.rmtree(folder)


GENERATE = ("--face", "photo.jpg", "--prompt", "a person", "--steps", "4", "--size", "64x64", "--threads", "1")


@pytest.mark.parametrize(
    "command", [["--version"], ["--help"], ["doctor"], ["generate", "--help"], ["bench", "--help"]]
)
def test_commands_answer(command: list[str], place: Path) -> None:
    done = run_as_nobody(instantrt(*command), place)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_a_bundle_that_can_only_be_read_makes_pictures(nano_bundle: Path, place: Path) -> None:
    shutil.copytree(nano_bundle, place / "bundle")
    done = run_as_nobody(instantrt("generate", "bundle", *GENERATE, "--out", "out/a.png"), place)
    assert (done.returncode, done.stderr) == (0, "")
    assert (place / "out/a.png").stat().st_uid == NOBODY
    assert list((place / "tmp").iterdir()) == []


def test_nano_is_kept_in_a_temporary_folder_with_a_warning(trained_bundle: Path, place: Path) -> None:
    """As if it had been exported there before, which takes a minute."""
    cache = place / "tmp" / f"instantrt-{NOBODY}"
    shutil.copytree(trained_bundle, cache / trained_bundle.name)
    for path in (cache, *cache.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    cache.chmod(0o700)
    command = instantrt("generate", "nano", *GENERATE, "--out", "out/a.png")
    done = run_as_nobody(command, place, TMPDIR=str(place / "tmp"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: the user's cache folder is unknown (no home folder); nano is kept in ")
    assert str(cache) in done.stderr
    assert (place / "out/a.png").is_file()


@pytest.mark.parametrize("out", ["a.png", "new/a.png", "/proc/a.png"])
def test_a_place_without_permission_is_told_before_nano_is_exported(out: str, place: Path) -> None:
    done = run_as_nobody(instantrt("generate", "nano", *GENERATE, "--out", out), place, TMPDIR=str(place / "tmp"))
    assert done.returncode == 1
    assert f"{out} cannot be written" in done.stderr
    assert "exporting" not in done.stderr
    assert list((place / "tmp").iterdir()) == []
