"""`instantrt bench gate`: sessions of two installations in turn, then the comparison of their files.

Sessions alternate so that a machine that gets slower or busier hits both, and each is a new process, because processes
of the same code differ more from each other than requests within one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from instantrt.cli.common import ProgressLine
from instantrt.errors import RequestError
from instantrt_bench.commands.compare import run_compare
from instantrt_bench.compare import THRESHOLD_APART
from instantrt_bench.results import ResultError
from instantrt_bench.statistics import CONFIDENCE


@dataclass(frozen=True)
class Side:
    """An installation, its bundle, and the file for its results."""

    python: str
    bundle: Path
    file: Path


def run_gate(args: argparse.Namespace) -> int:
    """Run the command. Returns 3 on a regression, else 0.

    Raises:
        ResultError: a session could not be measured, or the results are not comparable.
    """
    if args.sessions < 1 or args.samples < 1:
        raise RequestError("--sessions and --samples must be at least 1")
    before = Side(args.before_python, args.before_bundle, args.out / "before.json")
    after = Side(args.after_python, args.after_bundle, args.out / "after.json")
    for side in (before, after):
        side.file.unlink(missing_ok=True)
    progress = ProgressLine("gate")
    for done, side in enumerate(in_turn(before, after, args.sessions), 1):
        _measure(side, args)
        progress(done, 2 * args.sessions)
    compared = argparse.Namespace(
        before=before.file,
        after=after.file,
        threshold=args.threshold,
        threshold_apart=THRESHOLD_APART,
        confidence=CONFIDENCE,
        no_verdict=False,
        json=args.json,
    )
    return run_compare(compared)


def in_turn(before: Side, after: Side, sessions: int) -> Iterator[Side]:
    """A B, B A, A B, ...: who goes first alternates too."""
    for session in range(sessions):
        yield from (before, after) if session % 2 == 0 else (after, before)


def session_command(side: Side, args: argparse.Namespace) -> list[str]:
    """One session, added to the side's file."""
    samples = str(args.samples)
    return [
        *(side.python, "-m", "instantrt.cli", "bench", "latency", str(side.bundle)),
        *("--systems", args.system, "--scenarios", args.scenarios, "--threads", str(args.threads)),
        *("--min-samples", samples, "--max-samples", samples, "--append", "--out", str(side.file)),
    ]


def _measure(side: Side, args: argparse.Namespace) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - the user's own interpreters
            session_command(side, args), capture_output=True, text=True, check=False
        )
    except OSError as error:
        raise ResultError(f"{side.python} cannot be started", found=error.strerror) from error
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        raise ResultError(f"{side.python} could not measure a session", found=said[-2000:])
    sys.stdout.flush()
