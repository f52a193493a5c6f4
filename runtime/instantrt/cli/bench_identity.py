"""Arguments of `instantrt bench identity`."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "whether generated faces resemble the photo as much as the reference's do"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--out", type=Path)
