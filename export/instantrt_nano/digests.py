"""SHA-256 of every file of the trained checkpoint, and of the checkpoint as a whole."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

DIGESTS = "digests.json"


def file_digests(folder: Path) -> dict[str, str]:
    """By path in ``folder``, the SHA-256 of every file but the list itself and texts for people."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and path.name != DIGESTS and path.suffix != ".md"
    )
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def write_digests(folder: Path) -> None:
    """Writes the list into ``folder``."""
    (folder / DIGESTS).write_text(json.dumps(file_digests(folder), indent=1) + "\n", encoding="utf-8")


def checkpoint_digest(folder: Path) -> str:
    """One SHA-256 for the checkpoint, read off its list."""
    return hashlib.sha256((folder / DIGESTS).read_bytes()).hexdigest()
