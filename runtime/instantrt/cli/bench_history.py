"""Arguments of `instantrt bench history`."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "keep result files in a folder, and show how figures moved from commit to commit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--add", nargs="+", type=Path, default=(), metavar="FILE", help="copy result files into it")
    parser.add_argument("--scenario", metavar="TEXT", help="only scenarios whose id contains this")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
