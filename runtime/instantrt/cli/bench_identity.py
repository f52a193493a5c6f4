"""Arguments of `instantrt bench identity`."""

from __future__ import annotations

import argparse
from pathlib import Path

from instantrt.cli.bench_cases import add_case_arguments, parse_seed
from instantrt.samplers import SAMPLERS

HELP = "whether generated faces resemble the photo as much as the reference's do; exit status 3 if not"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_case_arguments(parser)
    parser.add_argument(
        "--seeds", type=parse_seed, nargs="+", default=[1, 2, 3, 4], metavar="N", help="(default: 1 2 3 4)"
    )
    parser.add_argument("--sampler", choices=SAMPLERS, default="euler", metavar="NAME", help="(default: %(default)s)")
    parser.add_argument(
        "--insightface",
        metavar="FOLDER",
        type=Path,
        default=Path("~/.insightface/models"),
        help="recognition networks found below it judge as well (default: %(default)s)",
    )
    verdict = parser.add_argument_group("verdict")
    verdict.add_argument(
        "--max-delta",
        type=float,
        default=0.02,
        metavar="D",
        help="mean cosine may lie below the reference's by so much (default: %(default)s)",
    )
    verdict.add_argument(
        "--max-detection-loss",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="of the pictures may lack a face that the reference shows (default: %(default)s)",
    )
    verdict.add_argument(
        "--require-verdict", action="store_true", help="exit status 3 also if no picture shows a face to judge"
    )
    parser.add_argument("--out", metavar="FILE", type=Path, default=Path("out/bench/identity.json"))
