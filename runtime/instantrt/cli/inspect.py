"""`instantrt inspect`: what is in a bundle, what its networks cost, and whether they fit into a GPU's memory."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from instantrt.cli.common import parse_size
from instantrt.errors import MissingExtraError

HELP = "show a bundle's networks, their cost, and the device memory that they need"
UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--target", choices=("tensorrt", "tensorrt-rtx"), help="default: the one that has plans")
    parser.add_argument("--slots", type=int, default=1, help="pictures denoised at once")
    parser.add_argument("--halves", type=int, choices=(1, 2), default=2, help="guidance halves: 1 off, 2 on")
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="picture size; default: the bundle's")
    parser.add_argument("--vram", type=parse_bytes, metavar="8GB", help="does it fit into this much device memory?")
    parser.add_argument("--tensors", action="store_true", help="list every input and output with its shape")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def run(args: argparse.Namespace) -> None:
    """Hand over to the engines package."""
    try:
        from instantrt_engines.command import inspect_command
    except ModuleNotFoundError as error:
        raise MissingExtraError("Inspecting a bundle", "build", str(error)) from error
    inspect_command(args)


def parse_bytes(text: str) -> int:
    """``"8GB"``, ``"7.5 GiB"`` or ``"900MB"`` in bytes; for argparse."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(MB|GB|MiB|GiB)", text, re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size in memory, e.g. 8GB")
    return int(float(match[1]) * UNITS[match[2].upper()])
