"""Structured logs: one JSON object a line. Whatever a request contained is in none of them."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any

LOGGER = logging.getLogger("instantrt_serve")
FIELDS = "fields"


def log(event: str, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Write an event.

    Args:
        event: what happened, in a few fixed words.
        level: as in :mod:`logging`.
        error: its kind and places are written, not its message, which may hold values.
        fields: plain data about it: ids, numbers, codes.
    """
    LOGGER.log(level, event, extra={FIELDS: fields | ({} if error is None else _about(error))})


def start_logs(level: str) -> None:
    """Send all logs of this process to stderr as JSON lines, those of the libraries as well."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    LOGGER.setLevel(level.upper())


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, event, and the event's fields."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        if record.name != LOGGER.name:
            line["logger"] = record.name
        if record.exc_info and record.exc_info[1] is not None:
            line |= _about(record.exc_info[1])
        return json.dumps(line | getattr(record, FIELDS, {}), default=str)


def _about(error: BaseException) -> dict[str, Any]:
    frames = traceback.extract_tb(error.__traceback__)
    return {"error": type(error).__name__, "trace": [f"{frame.name}:{frame.lineno}" for frame in frames]}
