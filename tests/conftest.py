"""Fixtures shared by all packages' tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest


@pytest.fixture(scope="session")
def nano_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano checkpoint with seed 0, made once. Read only: tests that alter one copy it first."""
    from instantrt_export.nano.maker import make_nano  # torch is imported only by the tests that need it

    return make_nano(tmp_path_factory.mktemp("nano") / "checkpoint")


@pytest.fixture(scope="session")
def nano_bundle(nano_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fp32 bundle of the nano checkpoint for pictures of 64x64 to 256x256, exported once. Read only."""
    from instantrt.cli import main

    bundle = tmp_path_factory.mktemp("nano") / "bundle"
    sizes = ["--min-size", "64x64", "--max-size", "256x256"]
    assert main(["export", str(nano_checkpoint), "--out", str(bundle), *sizes]) == 0
    return bundle


@pytest.fixture(scope="session")
def astronaut() -> npt.NDArray[np.uint8]:
    """scikit-image's portrait of an astronaut (NASA, public domain), u8 [512, 512, 3]."""
    from skimage.data import astronaut

    photo: npt.NDArray[np.uint8] = astronaut()
    return photo
