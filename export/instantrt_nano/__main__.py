"""``python -m instantrt_nano OUT [--random-weights SEED]`` writes the nano checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from instantrt.cli.command import ExitStatus, run_to_status
from instantrt.cli.outputs import check_folder
from instantrt_nano.maker import copy_trained, make_nano


def main() -> int:
    """Parse the command line and write the checkpoint; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m instantrt_nano", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write; must be new or empty")
    parser.add_argument(
        "--random-weights",
        type=int,
        metavar="SEED",
        help="seeded random diffusion weights in float32 instead of the trained ones, for tests",
    )
    arguments = parser.parse_args()
    return run_to_status("python -m instantrt_nano", lambda: _make(arguments))


def _make(arguments: argparse.Namespace) -> ExitStatus:
    check_folder(arguments.out)
    random = arguments.random_weights is not None
    out = make_nano(arguments.out, arguments.random_weights) if random else copy_trained(arguments.out)
    sys.stdout.write(f"{out}\n")
    return ExitStatus.DONE


if __name__ == "__main__":
    raise SystemExit(main())
