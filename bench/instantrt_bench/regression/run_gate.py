"""`instantrt bench gate`: sessions of two installations in turn, then the comparison of their files.

Sessions alternate so that a machine that gets slower or busier hits both, and each is a new process, because processes
of the same code differ more from each other than requests within one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from instantrt.cli.command import ExitStatus, ProgressDisplay
from instantrt.errors import RequestError
from instantrt_bench.regression.arguments import CompareOptions, GateOptions
from instantrt_bench.regression.run_compare import run_compare
from instantrt_bench.results.files import ResultError
from instantrt_bench.results.machine import system_threads


@dataclass(frozen=True)
class Side:
    """An installation, its bundle, and the file for its results."""

    python: str
    bundle: Path
    file: Path


def run_gate(options: GateOptions) -> ExitStatus:
    """Run the command: ``MISSED`` on a regression.

    Raises:
        ResultError: a session could not be measured, or the results are not comparable.
    """
    if options.sessions < 1 or options.samples < 1:
        found = f"--sessions {options.sessions}, --samples {options.samples}"
        raise RequestError("--sessions and --samples must be at least 1", found=found, hint="leave them out")
    options = replace(options, threads=system_threads(options.threads))
    before = Side(options.before_python, options.before_bundle, options.out / "before.json")
    after = Side(options.after_python, options.after_bundle, options.out / "after.json")
    for side in (before, after):
        side.file.unlink(missing_ok=True)
    with ProgressDisplay() as display:
        for done, side in enumerate(in_turn(before, after, options.sessions), 1):
            _measure(side, options)
            display.show("gate", done, 2 * options.sessions)
    return run_compare(CompareOptions(before.file, after.file, options.threshold, json=options.json))


def in_turn(before: Side, after: Side, sessions: int) -> Iterator[Side]:
    """A B, B A, A B, ...: who goes first alternates too."""
    for session in range(sessions):
        yield from (before, after) if session % 2 == 0 else (after, before)


def session_command(side: Side, options: GateOptions) -> list[str]:
    """One session, added to the side's file."""
    samples = str(options.samples)
    return [
        *(side.python, "-m", "instantrt.cli", "bench", "latency", str(side.bundle)),
        *("--systems", options.system, "--scenarios", options.scenarios, "--threads", str(options.threads)),
        *("--min-samples", samples, "--max-samples", samples, "--append", "--out", str(side.file)),
    ]


def _measure(side: Side, options: GateOptions) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - the user's own interpreters
            session_command(side, options), capture_output=True, text=True, check=False
        )
    except OSError as error:
        hint = "name a Python interpreter in which InstantRT is installed"
        raise ResultError(f"{side.python} cannot be started", found=str(error.strerror), hint=hint) from error
    if done.returncode != 0:
        said = done.stderr.strip() or done.stdout.strip()
        hint = f"try it by hand: {' '.join(session_command(side, options))}"
        raise ResultError(f"{side.python} could not measure a session", found=said[-2000:], hint=hint)
    sys.stdout.flush()
