"""Arguments of `instantrt bench gate`."""

from __future__ import annotations

import argparse
from pathlib import Path

SESSIONS, SAMPLES, THREADS = 12, 12, 1  # how good these are: instantrt_bench.gate_power
HELP = "measure two installations in alternating sessions and compare them; exit status 3 on a regression"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    for side, what in (("before", "the state that is held to be good"), ("after", "the change")):
        parser.add_argument(f"--{side}-python", metavar="PYTHON", required=True, help=f"interpreter with {what}")
        parser.add_argument(f"--{side}-bundle", metavar="BUNDLE", type=Path, required=True, help="made by it")
    parser.add_argument("--scenarios", default="nano-gate", metavar="NAME|FILE")
    parser.add_argument("--system", default="runtime-onnxruntime")
    parser.add_argument(
        "--sessions", type=int, default=SESSIONS, help="new processes of each side (default: %(default)s)"
    )
    parser.add_argument("--samples", type=int, default=SAMPLES, help="timed runs in each (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=THREADS, help="more wait for each other (default: %(default)s)")
    parser.add_argument("--threshold", type=float, default=0.05, help="smallest slowdown that counts, as a share")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("out/gate"), help="for both result files")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
