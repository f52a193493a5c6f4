"""Arguments of `instantrt bench compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "hold two result files of one benchmark against each other; exit status 3 on a regression"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    what = "result file, pytest-benchmark's JSON, or a folder of the latter: one session each"
    parser.add_argument("before", metavar="A", type=Path, help=what)
    parser.add_argument("after", metavar="B", type=Path, help="the same benchmark, later")
    parser.add_argument(
        "--threshold", type=float, default=0.05, help="smallest slowdown that counts, as a share (default: %(default)s)"
    )
    parser.add_argument(
        "--threshold-apart",
        type=float,
        default=0.25,
        help="the same for files whose sessions do not alternate in time (default: %(default)s)",
    )
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default: %(default)s)")
    parser.add_argument(
        "--no-verdict",
        action="store_true",
        help="show the figures of files that are not comparable, without any verdict",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
