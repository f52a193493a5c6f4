"""`instantrt bench report`: its arguments and options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from instantrt.cli.arguments import parse_positive
from instantrt.cli.outputs import check_files
from instantrt.errors import RequestError


@dataclass(frozen=True)
class ReportOptions:
    """The command's options."""

    results: Sequence[Path] = ()
    history: Path | None = None
    pictures: int = 12
    out: Path = Path("out/bench/report.html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "results", nargs="*", metavar="FILE", type=Path, help="result files of any kind, or pytest-benchmark's JSON"
    )
    parser.add_argument("--history", metavar="FOLDER", type=Path, help="shows how figures moved from commit to commit")
    parser.add_argument(
        "--pictures", type=parse_positive, metavar="N", help="cases in the gallery at most (default: %(default)s)"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="(default: %(default)s)")


def check(options: ReportOptions) -> None:
    """What can be wrong before any file is read.

    Raises:
        RequestError: neither results nor a history were named.
        OutputError: the page could not be written, or would replace what it is made of.
    """
    if not options.results and options.history is None:
        raise RequestError("a report needs results", found="no file", hint="name result files, or --history FOLDER")
    check_files([options.out], options.results)
