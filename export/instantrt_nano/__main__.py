"""``python -m instantrt_nano OUT [--random-weights SEED]`` writes the nano checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from instantrt.errors import InstantRTError
from instantrt_nano.maker import copy_trained, make_nano


def main() -> int:
    """Parses the command line and writes the checkpoint; 2 after a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m instantrt_nano", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write; must be new or empty")
    parser.add_argument(
        "--random-weights",
        type=int,
        metavar="SEED",
        help="seeded random diffusion weights in float32 instead of the trained ones, for tests",
    )
    arguments = parser.parse_args()
    try:
        random = arguments.random_weights is not None
        out = make_nano(arguments.out, arguments.random_weights) if random else copy_trained(arguments.out)
    except InstantRTError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{out}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
