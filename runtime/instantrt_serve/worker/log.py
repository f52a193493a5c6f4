"""The worker's log: one JSON object per line on stderr. Nothing of what a request contains goes into it."""

from __future__ import annotations

import json
import sys
import traceback
from datetime import UTC, datetime


def log(event: str, **facts: str | int | float | bool | None) -> None:
    """Write one line."""
    line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "part": "worker", "event": event, **facts}
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()


def log_bug(event: str, error: BaseException, **facts: str) -> None:
    """Write one line with where an unexpected error came from. Its text may quote a request and is left out."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    log(event, error=type(error).__name__, where="; ".join(where), **facts)
