"""`instantrt generate` with whatever arguments: pictures, a message, or a usage error, and never anything else.

The networks are replaced by one that gives grey pictures; everything before and after them is real.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image

from doubles.values import TEXTS
from instantrt import GenerateRequest, GenerateResult, InstantID, Timings
from instantrt.cli import main
from instantrt.request import RANGES, SAMPLER_NAMES, STYLES


class GreyPictures:
    """Stands for a loaded pipeline."""

    def __enter__(self) -> GreyPictures:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, request: GenerateRequest, progress: Any) -> GenerateResult:
        progress(1, 1)
        pixels = np.full((request.samples, 64, 64, 3), 128, np.uint8)
        timings = Timings({"denoise": 1.0}, (1.0,), (1.0,))
        return GenerateResult(
            pixels, np.zeros((request.samples, 4, 8, 8), np.float32), 1, np.zeros((5, 2)), (), timings
        )


@pytest.fixture
def folder(tmp_path: Path, nano_bundle: Path, astronaut: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to be in, with a photo and a bundle that is opened but not loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(InstantID, "load", lambda *_, **__: GreyPictures())
    Image.fromarray(astronaut[:256, 128:384]).save("photo.jpg")
    Path("empty.jpg").touch()
    Path("bundle").symlink_to(nano_bundle)
    return tmp_path


NAMES = st.text(st.characters(exclude_characters="/", exclude_categories=()), max_size=300)
OUTPUTS = st.builds(lambda name, suffix: f"out/{name}{suffix}", NAMES, st.sampled_from([".png", ".JPG", ".webp", ""]))
NUMBERS = st.integers().map(str) | st.floats().map(str) | st.integers(300, 5000).map(lambda digits: "9" * digits)
ANY = TEXTS | NUMBERS
OPTIONS = {
    **{f"--{name.replace('_', '-')}": NUMBERS for name in RANGES if name not in ("width", "height")},
    "--size": st.builds("{}x{}".format, NUMBERS, NUMBERS) | st.sampled_from(["64x64", "128x192", "256x999999"]),
    "--negative-prompt": ANY,
    "--style": st.sampled_from(sorted(STYLES)),
    "--pose": st.sampled_from(["photo.jpg", "empty.jpg", "nowhere"]),
    "--sampler": st.sampled_from(SAMPLER_NAMES),
    "--target": st.sampled_from(["onnxruntime", "tensorrt", "cuda"]),
    "--threads": NUMBERS,
    "--device": NUMBERS,
    "--weight-budget": NUMBERS,
}
SENSIBLE = {"--steps": "8", "--samples": "2", "--guidance-scale": "1.5", "--seed": "7", "--threads": "1"}
FLAGS = ("--json", "--eager", "--enhance-face-region", "--no-enhance-face-region", "--help", "--version", "--", "-")


@st.composite
def arguments(draw: st.DrawFn) -> list[str]:
    """A command line that means something, in which some of the words may be replaced by anything."""
    argv = ["generate", "bundle", "--face", draw(st.sampled_from(["photo.jpg"] * 4 + ["empty.jpg", "nowhere", "."]))]
    argv += ["--prompt", draw(st.just("a person") | ANY), "--out", draw(st.just("out/a.png") | OUTPUTS)]
    for option in draw(st.lists(st.sampled_from(sorted(OPTIONS)), max_size=3, unique=True)):
        value = draw(st.just(SENSIBLE[option]) | OPTIONS[option] if option in SENSIBLE else OPTIONS[option] | ANY)
        argv += [option, value]
    if draw(st.integers(0, 4)) == 0:
        argv.insert(draw(st.integers(1, len(argv))), draw(st.sampled_from(FLAGS) | NAMES))
    return argv


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(arguments())
def test_any_command_line_ends_in_pictures_or_in_a_message(folder: Path, argv: list[str]) -> None:
    shutil.rmtree(folder / "out", ignore_errors=True)
    before = set(folder.iterdir())
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="ascii") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status: Any = main(argv)
        except SystemExit as ended:
            status = f"exit {ended.code}"
    event(f"status {status}")
    out.flush()
    err.flush()
    made = list((folder / "out").iterdir()) if (folder / "out").exists() else []
    if status == 0:
        assert len(made) in (1, 2, 3, 4)
        assert out.buffer.getvalue()  # type: ignore[attr-defined]
    else:
        assert status in (1, "exit 2", "exit 0")
        assert made == []
        assert (err if status in (1, "exit 2") else out).buffer.getvalue()  # type: ignore[attr-defined]
    assert set(folder.iterdir()) - before <= {folder / "out"}
