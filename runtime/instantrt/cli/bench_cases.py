"""Arguments that `instantrt bench fidelity` and `identity` share: which pictures are made, and by what."""

from __future__ import annotations

import argparse
from pathlib import Path

from instantrt.cli.common import parse_size


def add_case_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare them."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--checkpoint", required=True, help="what the bundle was made from: folder or hub id")
    parser.add_argument("--target", default="onnxruntime", help="what executes the bundle (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads of each system; default: all that may be used")
    cases = parser.add_argument_group("cases: every photo with every prompt, seed and sampler")
    cases.add_argument(
        "--manifest", metavar="FILE", type=Path, help="photos and prompts, JSON or CSV; default: two public portraits"
    )
    cases.add_argument("--steps", type=int, default=10, help="4-100 (default: %(default)s)")
    cases.add_argument("--guidance-scale", type=float, default=5.0, help="(default: %(default)s)")
    cases.add_argument("--identity-strength", type=float, default=0.8, help="(default: %(default)s)")
    cases.add_argument("--adapter-strength", type=float, default=0.8, help="(default: %(default)s)")
    cases.add_argument("--enhance-face-region", action=argparse.BooleanOptionalAction, default=True)
    cases.add_argument("--size", type=parse_size, metavar="WxH", help="default: the bundle's")
    parser.add_argument("--json", action="store_true", help="print the result file's summary as one JSON object")


def parse_seed(text: str) -> int:
    """A seed that gives the same picture every time; for argparse."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a seed: a whole number from 0")
    return int(text)


def parse_positive(text: str) -> int:
    """A whole number from 1; for argparse."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)
