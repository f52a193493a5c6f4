"""Arguments of `instantrt bench report`."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "one self-contained HTML page from result files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--out", type=Path)
