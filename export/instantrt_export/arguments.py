"""`instantrt export`: its arguments and options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from instantrt.cli.arguments import add_json_argument, parse_positive, parse_size
from instantrt.cli.outputs import check_folder

if TYPE_CHECKING:
    from instantrt.contracts import Precision


@dataclass(frozen=True)
class ExportOptions:
    """The command's options."""

    checkpoint: str
    out: Path
    identitynet: str | None = None
    adapter: str | None = None
    faces: str | None = None
    revision: str | None = None
    precision: Precision = "fp32"
    vae_precision: Precision | None = None
    size: tuple[int, int] | None = None
    max_size: tuple[int, int] | None = None
    min_size: tuple[int, int] | None = None
    slots: int | None = None
    only: Sequence[str] | None = None
    parity: bool = True
    json: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or hub id of the SDXL checkpoint")
    parser.add_argument("--out", metavar="BUNDLE", type=Path, required=True)
    parser.add_argument("--identitynet", help="folder or hub id; default: ControlNetModel/ in the checkpoint")
    parser.add_argument("--adapter", help="ip-adapter.bin or .safetensors; default: in the checkpoint")
    parser.add_argument("--faces", help="folder of the face networks; default: antelopev2/ or faces/ in the checkpoint")
    parser.add_argument("--revision", help="revision of hub ids")
    parser.add_argument("--precision", choices=("fp32", "fp16"), help="fp32 for CPUs, fp16 for GPUs")
    parser.add_argument("--vae-precision", choices=("fp32", "fp16"), help="of the VAE alone; default: --precision")
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="picture size; default: the checkpoint's")
    parser.add_argument("--max-size", type=parse_size, metavar="WxH", help="accept sizes from --min-size up to this")
    parser.add_argument("--min-size", type=parse_size, metavar="WxH", help="smallest size, with --max-size")
    parser.add_argument("--slots", type=parse_positive, metavar="N", help="fix the number of slots; default: symbolic")
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="export only these networks")
    parser.add_argument(
        "--parity", action=argparse.BooleanOptionalAction, help="compare each network with its torch module"
    )
    add_json_argument(parser)


def check(options: ExportOptions) -> None:
    """Raise :class:`OutputError` if the bundle could not be written."""
    check_folder(options.out)
