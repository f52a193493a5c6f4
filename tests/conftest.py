"""Fixtures shared by all packages' tests."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def nano_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano checkpoint with seed 0, made once. Read only: tests that alter one copy it first."""
    from instantrt_export.nano.maker import make_nano  # torch is imported only by the tests that need it

    return make_nano(tmp_path_factory.mktemp("nano") / "checkpoint")
