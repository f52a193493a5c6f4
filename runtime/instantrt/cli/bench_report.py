"""Arguments of `instantrt bench report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from instantrt.cli.bench_cases import parse_positive

HELP = "one self-contained HTML page from result files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "results", nargs="*", metavar="FILE", type=Path, help="result files of any kind, or pytest-benchmark's JSON"
    )
    parser.add_argument("--history", metavar="FOLDER", type=Path, help="shows how figures moved from commit to commit")
    parser.add_argument(
        "--pictures",
        type=parse_positive,
        default=12,
        metavar="N",
        help="cases in the gallery at most (default: %(default)s)",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, default=Path("out/bench/report.html"))
