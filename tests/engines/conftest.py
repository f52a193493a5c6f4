"""Bundles to build plans from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from doubles.graphs import control, projection, write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Two hand-made networks that build in well under a second."""
    return write_bundle(tmp_path / "bundle", {"image_projection": projection(), "control_embedding": control()})


@pytest.fixture(scope="session")
def nano_bundle_fp16(nano_checkpoint: Path, made_once: Callable[..., Path]) -> Path:
    """The fp16 bundle of the nano checkpoint for pictures of 128x128, exported once. Read only."""
    from instantrt.cli import main

    def export(bundle: Path) -> None:
        assert main(["export", str(nano_checkpoint), "--out", str(bundle), "--precision", "fp16", "--no-parity"]) == 0

    return made_once("fp16", export)
