"""``python -m instantrt_export.nano OUT [--seed N]`` writes the nano checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from instantrt.errors import InstantRTError
from instantrt_export.nano.maker import make_nano


def main() -> int:
    """Parses the command line and writes the checkpoint; 2 after a user's mistake."""
    parser = argparse.ArgumentParser(prog="python -m instantrt_export.nano", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write; must be new or empty")
    parser.add_argument("--seed", type=int, default=0, help="of the random weights (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        out = make_nano(arguments.out, seed=arguments.seed)
    except InstantRTError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{out}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
