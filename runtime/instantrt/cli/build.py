"""`instantrt build`: a bundle's ONNX networks to plans."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from instantrt.cli.common import parse_size
from instantrt.errors import MissingExtraError

HELP = "build a bundle's networks into TensorRT plans"
EXTRAS = {"tensorrt": "build,tensorrt", "tensorrt-rtx": "build,rtx"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--target", required=True, choices=("tensorrt", "tensorrt-rtx", "onnxruntime"))
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="build only these networks")
    parser.add_argument("--force", action="store_true", help="build again what is still valid")
    shapes = parser.add_argument_group("sizes that the plans accept (default: one static size)")
    shapes.add_argument("--batch", type=parse_batch, default=(1, 1, 1), metavar="MIN:OPT:MAX", help="slots; 1:1:4")
    shapes.add_argument("--sizes", nargs="+", type=parse_size, default=(), metavar="WxH", help="default: the bundle's")
    shapes.add_argument(
        "--size-profiles",
        choices=("each", "range"),
        default="each",
        help="with several sizes: a static profile for each, or one dynamic profile tuned for the first",
    )
    shapes.add_argument(
        "--halves", nargs="+", type=int, choices=(1, 2), default=(1, 2), help="guidance halves: off, on (default: both)"
    )
    options = parser.add_argument_group("builder options")
    options.add_argument("--optimization-level", type=int, metavar="0-5")
    options.add_argument("--aux-streams", type=int, metavar="N", help="most auxiliary streams of one execution")
    options.add_argument("--strip-weights", action="store_true", help="small plans; weights come from the ONNX files")
    options.add_argument("--weight-streaming", action="store_true", help="weights may stay in host memory")
    options.add_argument("--hardware-compatibility", choices=("ampere_plus", "same_compute_capability"))
    options.add_argument("--version-compatible", action="store_true", help="runs with later minor versions too")
    options.add_argument(
        "--compute", nargs="+", default=(), metavar="X.Y", help="GPU compute capabilities to build for"
    )
    options.add_argument("--timing-cache", type=Path, metavar="FILE", help="kernel timings, read and updated")
    options.add_argument("--allow-slow", action="store_true", help="keep plans that the checks would refuse as slow")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep TensorRT's full log")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def run(args: argparse.Namespace) -> None:
    """Hand over to the engines package."""
    try:
        from instantrt_engines.command import build_command
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(args.target, "build")
        raise MissingExtraError(f"Building {args.target} plans", extra, str(error)) from error
    build_command(args)


def parse_batch(text: str) -> tuple[int, int, int]:
    """``"1:1:4"`` as (fewest, best, most); one number stands for all three. For argparse."""
    match = re.fullmatch(r"(\d+)(?::(\d+):(\d+))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not MIN:OPT:MAX, e.g. 1:1:4")
    low = int(match[1])
    return (low, int(match[2]), int(match[3])) if match[2] else (low, low, low)
