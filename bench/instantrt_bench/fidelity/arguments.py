"""`instantrt bench fidelity`: its arguments and options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from instantrt.cli.arguments import parse_positive, parse_seed
from instantrt.request import SAMPLER_NAMES
from instantrt_bench.cases.arguments import CaseOptions, add_case_arguments

DEFAULT_SAMPLERS = ("euler", "heun", "dpmpp_2m_sde_karras", "lcm")  # one of each kind: plain, two calls, history, noise


@dataclass(frozen=True, kw_only=True)
class FidelityOptions(CaseOptions):
    """The command's options. ``max_latents_error`` and ``min_psnr`` depend on the precision if None."""

    seeds: Sequence[int] = (1,)
    samplers: Sequence[str] = DEFAULT_SAMPLERS
    draws: int = 3
    max_latents_error: float | None = None
    min_psnr: float | None = None
    out: Path = Path("out/bench/fidelity.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_case_arguments(parser)
    parser.add_argument("--seeds", type=parse_seed, nargs="+", metavar="N", help="(default: 1)")
    parser.add_argument(
        "--samplers",
        nargs="+",
        choices=SAMPLER_NAMES,
        metavar="NAME",
        help=f"any of {', '.join(SAMPLER_NAMES)} (default: {' '.join(DEFAULT_SAMPLERS)})",
    )
    parser.add_argument("--draws", type=parse_positive, help="random inputs of each network (default: %(default)s)")
    limits = parser.add_argument_group(
        "limits; the defaults depend on the precision, see docs/fidelity-and-identity.md"
    )
    limits.add_argument("--max-latents-error", type=float, metavar="X", help="relative, at any step")
    limits.add_argument("--min-psnr", type=float, metavar="DB", help="of any picture")
    parser.add_argument("--out", metavar="FILE", type=Path, help="(default: %(default)s)")
