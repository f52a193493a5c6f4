"""`instantrt bench compare`, `gate` and `history`: their arguments and options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from instantrt.cli.arguments import add_json_argument, parse_positive
from instantrt.cli.outputs import check_folder
from instantrt.errors import BundleError, RequestError


@dataclass(frozen=True)
class CompareOptions:
    """Options of `instantrt bench compare`."""

    before: Path
    after: Path
    threshold: float = 0.05
    threshold_apart: float = 0.25
    confidence: float = 0.95
    no_verdict: bool = False
    json: bool = False


def add_compare_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `instantrt bench compare`."""
    what = "result file, pytest-benchmark's JSON, or a folder of the latter: one session each"
    parser.add_argument("before", metavar="A", type=Path, help=what)
    parser.add_argument("after", metavar="B", type=Path, help="the same benchmark, later")
    parser.add_argument(
        "--threshold", type=float, help="smallest slowdown that counts, as a share (default: %(default)s)"
    )
    parser.add_argument(
        "--threshold-apart",
        type=float,
        help="the same for files whose sessions do not alternate in time (default: %(default)s)",
    )
    parser.add_argument("--confidence", type=float, help="of the intervals (default: %(default)s)")
    parser.add_argument(
        "--no-verdict",
        action="store_true",
        help="show the figures of files that are not comparable, without any verdict",
    )
    add_json_argument(parser)


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """Options of `instantrt bench gate`. How good the defaults are: :mod:`instantrt_bench.regression.gate_power`."""

    before_python: str
    before_bundle: Path
    after_python: str
    after_bundle: Path
    scenarios: str = "nano-gate"
    system: str = "runtime-onnxruntime"
    sessions: int = 12
    samples: int = 12
    threads: int = 1
    threshold: float = CompareOptions.threshold
    out: Path = Path("out/gate")
    json: bool = False


def add_gate_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `instantrt bench gate`."""
    for side, what in (("before", "the state that is held to be good"), ("after", "the change")):
        parser.add_argument(f"--{side}-python", metavar="PYTHON", required=True, help=f"interpreter with {what}")
        parser.add_argument(f"--{side}-bundle", metavar="BUNDLE", type=Path, required=True, help="made by it")
    parser.add_argument("--scenarios", metavar="NAME|FILE", help="(default: %(default)s)")
    parser.add_argument("--system", help="(default: %(default)s)")
    parser.add_argument("--sessions", type=int, help="new processes of each side (default: %(default)s)")
    parser.add_argument("--samples", type=int, help="timed runs in each (default: %(default)s)")
    parser.add_argument("--threads", type=parse_positive, help="more wait for each other (default: %(default)s)")
    parser.add_argument(
        "--threshold", type=float, help="smallest slowdown that counts, as a share (default: %(default)s)"
    )
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="for both result files (default: %(default)s)")
    add_json_argument(parser)


def check_gate(options: GateOptions) -> None:
    """What can be wrong before the first session, which takes a minute and replaces the results of an earlier gate.

    Raises:
        RequestError: an interpreter that is not there.
        BundleError: a folder without a bundle. What is in it is the business of the interpreter that made it.
        OutputError: the results could not be written.
    """
    check_folder(options.out)
    for python in (options.before_python, options.after_python):
        if which(python) is None:
            hint = "name a Python interpreter in which InstantRT is installed"
            raise RequestError("no such interpreter", found=python, hint=hint)
    for bundle in (options.before_bundle, options.after_bundle):
        if not (bundle / "bundle.json").is_file():
            raise BundleError(
                f"{bundle} is not a bundle", found="no bundle.json", hint="make one with that interpreter"
            )


@dataclass(frozen=True)
class HistoryOptions:
    """Options of `instantrt bench history`."""

    folder: Path
    add: Sequence[Path] = ()
    scenario: str | None = None
    json: bool = False


def add_history_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `instantrt bench history`."""
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--add", nargs="+", type=Path, metavar="FILE", help="copy result files into it")
    parser.add_argument("--scenario", metavar="TEXT", help="only scenarios whose id contains this")
    add_json_argument(parser)


def check_history(options: HistoryOptions) -> None:
    """Raise :class:`OutputError` if files are to be added and the folder cannot be written."""
    if options.add:
        check_folder(options.folder)
