"""Arguments of `instantrt bench latency`."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "time requests end to end, the runtime's and the reference's runs alternating"
SYSTEMS = (
    "runtime-onnxruntime",
    "runtime-tensorrt",
    "runtime-tensorrt-rtx",
    "reference-eager",
    "reference-compiled",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--checkpoint", help="what the bundle was made from: folder or hub id; the reference needs it")
    parser.add_argument(
        "--systems",
        nargs="+",
        choices=SYSTEMS,
        metavar="SYSTEM",
        help=f"any of {', '.join(SYSTEMS)}; default: runtime-onnxruntime, and reference-eager with --checkpoint",
    )
    parser.add_argument("--scenarios", default="nano", metavar="NAME|FILE", help="a set by name, or a JSON file")
    parser.add_argument("--only", metavar="TEXT", help="only scenarios whose id contains this")
    parser.add_argument("--photo", type=Path, help="whose face is shown; default: a public-domain portrait")
    parser.add_argument("--threads", type=int, help="CPU threads of each system; default: all that may be used")
    parser.add_argument("--out", metavar="FILE", type=Path, default=Path("out/bench/latency.json"))
    parser.add_argument("--append", action="store_true", help="add another session to FILE instead of replacing it")
    stopping = parser.add_argument_group("when to stop")
    stopping.add_argument("--min-samples", type=int, default=20, help="timed runs of each system at least")
    stopping.add_argument("--max-samples", type=int, default=40, help="and at most")
    stopping.add_argument(
        "--noise", type=float, default=0.02, help="stop when every median is known to this share of itself"
    )
    stopping.add_argument(
        "--max-seconds", type=float, default=600.0, help="of a scenario's timed runs, once there are a few"
    )
    stopping.add_argument("--warm-up", type=int, default=2, help="untimed runs of each system before a scenario")
    judging = parser.add_argument_group("goals: exit status 3 if one is missed or cannot be judged")
    judging.add_argument("--require-ratio", type=float, metavar="X", help="reference-eager over the runtime, at least")
    judging.add_argument("--require-overhead-us", type=float, metavar="US", help="host overhead per step, at most")
    checks = parser.add_argument_group("checks and roofline")
    checks.add_argument(
        "--min-psnr", type=float, default=30.0, metavar="DB", help="every timed picture against the reference's"
    )
    checks.add_argument("--peak-tflops", type=float, help="of this machine, for the roofline")
    checks.add_argument("--peak-gbs", type=float, help="memory bandwidth of this machine in GB/s, for the roofline")
    checks.add_argument("--measure-peak", action="store_true", help="measure the CPU's own peaks instead")
    parser.add_argument("--history", metavar="FOLDER", type=Path, help="also keep the results there")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
