"""`instantrt export`: a checkpoint to a bundle of ONNX networks."""

from __future__ import annotations

import argparse
from pathlib import Path

from instantrt.cli.common import parse_size
from instantrt.errors import MissingExtraError

HELP = "export a checkpoint's networks to ONNX and write a bundle"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or hub id of the SDXL checkpoint")
    parser.add_argument("--out", metavar="BUNDLE", type=Path, required=True)
    parser.add_argument("--identitynet", help="folder or hub id; default: ControlNetModel/ in the checkpoint")
    parser.add_argument("--adapter", help="ip-adapter.bin or .safetensors; default: in the checkpoint")
    parser.add_argument("--faces", help="folder of the face networks; default: antelopev2/ or faces/ in the checkpoint")
    parser.add_argument("--revision", help="revision of hub ids")
    parser.add_argument("--precision", choices=("fp32", "fp16"), default="fp32", help="fp32 for CPUs, fp16 for GPUs")
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="picture size; default: the checkpoint's")
    parser.add_argument("--max-size", type=parse_size, metavar="WxH", help="accept sizes from --min-size up to this")
    parser.add_argument("--min-size", type=parse_size, metavar="WxH", help="smallest size, with --max-size")
    parser.add_argument("--slots", type=int, help="fix the number of slots; default: symbolic")
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="export only these networks")
    parser.add_argument("--no-parity", action="store_true", help="skip the comparison with the torch modules")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def run(args: argparse.Namespace) -> None:
    """Hand over to the export package."""
    try:
        from instantrt_export.command import export_command
    except ImportError as error:
        raise MissingExtraError("Exporting a checkpoint", "export", str(error)) from error
    export_command(args)
