"""Arguments and names of files are bytes: what is no UTF-8 is told early or passed on, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from doubles.processes import environment, instantrt

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode here")

LATIN_1 = "café".encode("latin-1")
GENERATE = (b"--steps", b"4", b"--size", b"64x64", b"--threads", b"1", b"--seed", b"1")


@pytest.fixture
def folder(tmp_path: Path, astronaut: npt.NDArray[np.uint8]) -> Path:
    """A folder with a photo whose name is no UTF-8."""
    Image.fromarray(astronaut).save(tmp_path / os.fsdecode(LATIN_1 + b".png"))
    return tmp_path


def run(folder: Path, *arguments: str | bytes, **variables: str) -> subprocess.CompletedProcess[bytes]:
    command = instantrt("generate", *arguments, "--face", LATIN_1 + b".png", *GENERATE)
    return subprocess.run(command, cwd=folder, env=environment(**variables), capture_output=True, check=False)


@pytest.mark.parametrize("option", [b"--prompt", b"--negative-prompt", b"--style"])
def test_text_that_is_no_utf_8_is_told_before_anything_is_loaded(folder: Path, option: bytes) -> None:
    done = run(folder, "nano", "--prompt", "a person", "--out", "a.png", option, LATIN_1)
    assert done.returncode == 1
    assert b"is not Unicode text\nFound: byte 0xe9 at character 4 of 'caf\\udce9'\nTo do: " in done.stderr
    assert b"exporting" not in done.stderr


@pytest.mark.parametrize(
    ("name", "encoding", "printed"),
    [(LATIN_1, "utf-8", b"caf\\udce9.png"), ("café".encode(), "ascii", b"caf\\xe9.png")],
    ids=["no UTF-8", "a terminal of ASCII"],
)
def test_a_name_that_cannot_be_printed_is_escaped_and_the_picture_is_there(
    folder: Path, nano_bundle: Path, name: bytes, encoding: str, printed: bytes
) -> None:
    done = run(
        folder, str(nano_bundle), "--prompt", "a person", b"--out", b"out/" + name + b".png", PYTHONIOENCODING=encoding
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"out/" + printed)
    assert [os.fsencode(file.name) for file in (folder / "out").iterdir()] == [name + b".png"]


def test_json_tells_a_name_of_any_bytes_so_that_it_can_be_had_again(folder: Path, nano_bundle: Path) -> None:
    done = run(folder, str(nano_bundle), "--prompt", "a person", b"--out", LATIN_1 + b".jpg", "--json")
    (file,) = json.loads(done.stdout)["files"]
    assert os.fsencode(file) == LATIN_1 + b".jpg"


def test_a_reader_that_has_read_enough_is_no_traceback() -> None:
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(instantrt("doctor"), env=environment(), **pipe) as process:  # type: ignore[call-overload]
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1
