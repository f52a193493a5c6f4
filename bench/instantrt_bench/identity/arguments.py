"""`instantrt bench identity`: its arguments and options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from instantrt.cli.arguments import parse_seed
from instantrt.request import SAMPLER_NAMES, GenerateRequest
from instantrt_bench.cases.arguments import CaseOptions, add_case_arguments


@dataclass(frozen=True, kw_only=True)
class IdentityOptions(CaseOptions):
    """The command's options."""

    seeds: Sequence[int] = (1, 2, 3, 4)
    sampler: str = GenerateRequest.sampler
    insightface: Path = Path("~/.insightface/models")
    max_delta: float = 0.02
    max_detection_loss: float = 0.05
    require_verdict: bool = False
    out: Path = Path("out/bench/identity.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_case_arguments(parser)
    parser.add_argument("--seeds", type=parse_seed, nargs="+", metavar="N", help="(default: 1 2 3 4)")
    parser.add_argument("--sampler", choices=SAMPLER_NAMES, metavar="NAME", help="(default: %(default)s)")
    parser.add_argument(
        "--insightface",
        metavar="FOLDER",
        type=Path,
        help="recognition networks found below it judge as well (default: %(default)s)",
    )
    verdict = parser.add_argument_group("verdict")
    verdict.add_argument(
        "--max-delta",
        type=float,
        metavar="D",
        help="mean cosine may lie below the reference's by so much (default: %(default)s)",
    )
    verdict.add_argument(
        "--max-detection-loss",
        type=float,
        metavar="SHARE",
        help="of the pictures may lack a face that the reference shows (default: %(default)s)",
    )
    verdict.add_argument(
        "--require-verdict", action="store_true", help="exit status 3 also if no picture shows a face to judge"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="(default: %(default)s)")
