"""Arguments of `instantrt bench fidelity`."""

from __future__ import annotations

import argparse
from pathlib import Path

from instantrt.cli.bench_cases import add_case_arguments, parse_positive, parse_seed
from instantrt.samplers import SAMPLERS

DEFAULT_SAMPLERS = ("euler", "heun", "dpmpp_2m_sde_karras", "lcm")  # one of each kind: plain, two calls, history, noise
HELP = "how far the runtime's networks, latents and pictures are from the reference's; exit status 3 if too far"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_case_arguments(parser)
    parser.add_argument("--seeds", type=parse_seed, nargs="+", default=[1], metavar="N", help="(default: 1)")
    parser.add_argument(
        "--samplers",
        nargs="+",
        choices=SAMPLERS,
        default=list(DEFAULT_SAMPLERS),
        metavar="NAME",
        help=f"any of {', '.join(SAMPLERS)} (default: {' '.join(DEFAULT_SAMPLERS)})",
    )
    parser.add_argument(
        "--draws", type=parse_positive, default=3, help="random inputs of each network (default: %(default)s)"
    )
    limits = parser.add_argument_group(
        "limits; the defaults depend on the precision, see docs/fidelity-and-identity.md"
    )
    limits.add_argument("--max-latents-error", type=float, metavar="X", help="relative, at any step")
    limits.add_argument("--min-psnr", type=float, metavar="DB", help="of any picture")
    parser.add_argument("--out", metavar="FILE", type=Path, default=Path("out/bench/fidelity.json"))
