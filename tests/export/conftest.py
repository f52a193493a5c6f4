"""Checkpoints to alter."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(nano_checkpoint: Path, tmp_path: Path) -> Path:
    """A nano checkpoint to alter: links to the shared one's files, which ``rewrite_weights`` and friends replace."""
    return Path(shutil.copytree(nano_checkpoint, tmp_path / "checkpoint", copy_function=os.symlink))
