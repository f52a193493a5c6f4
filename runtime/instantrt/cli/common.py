"""What commands share: sizes as text, a progress line, one JSON object on stdout."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import Any


def parse_size(text: str) -> tuple[int, int]:
    """``"1024x768"`` as (width, height); for argparse."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, e.g. 1024x1024")
    return int(match[1]), int(match[2])


def print_json(data: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    print(json.dumps(data, indent=1))


class ProgressLine:
    """A line on stderr that is redrawn on a terminal and absent in a pipe."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._shown = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Redraw with ``done`` of ``total``; ends the line when all is done."""
        if self._shown:
            end = "\n" if done == total else ""
            print(f"\r\033[K{self._label} {done}/{total}", end=end, file=sys.stderr, flush=True)
