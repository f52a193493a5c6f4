"""`instantrt bench latency`: its arguments and options."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from instantrt.cli.arguments import add_json_argument, parse_positive
from instantrt.cli.outputs import check_files, check_folder
from instantrt_bench.results.systems import DTYPES, SYSTEMS


@dataclass(frozen=True, kw_only=True)
class LatencyOptions:
    """The command's options."""

    bundle: Path
    checkpoint: str | None = None
    systems: Sequence[str] | None = None
    scenarios: str = "nano"
    only: str | None = None
    photo: Path | None = None
    threads: int | None = None
    reference_device: str | None = None
    reference_dtype: str | None = None
    out: Path = Path("out/bench/latency.json")
    append: bool = False
    min_samples: int = 20
    max_samples: int = 40
    noise: float = 0.02
    max_seconds: float = 600.0
    warm_up: int = 2
    require_ratio: float | None = None
    require_overhead_us: float | None = None
    min_psnr: float = 30.0
    peak_tflops: float | None = None
    peak_gbs: float | None = None
    measure_peak: bool = False
    history: Path | None = None
    json: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--checkpoint", help="what the bundle was made from: folder or hub id; the reference needs it")
    parser.add_argument(
        "--systems",
        nargs="+",
        choices=tuple(SYSTEMS),
        metavar="SYSTEM",
        help=f"any of {', '.join(SYSTEMS)}; default: runtime-onnxruntime, and reference-eager with --checkpoint",
    )
    parser.add_argument("--scenarios", metavar="NAME|FILE", help="a set by name, or a JSON file (default: %(default)s)")
    parser.add_argument("--only", metavar="TEXT", help="only scenarios whose id contains this")
    parser.add_argument("--photo", type=Path, help="whose face is shown; default: a public-domain portrait")
    parser.add_argument(
        "--threads", type=parse_positive, help="CPU threads of each system; default: all that may be used"
    )
    parser.add_argument(
        "--reference-device", metavar="cpu|cuda", help="where the reference runs; default: where the runtime does"
    )
    parser.add_argument(
        "--reference-dtype",
        choices=DTYPES,
        help="what reference-eager and reference-compiled compute in; default: the bundle's precision",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="(default: %(default)s)")
    parser.add_argument("--append", action="store_true", help="add another session to FILE instead of replacing it")
    stopping = parser.add_argument_group("when to stop")
    stopping.add_argument("--min-samples", type=int, help="timed runs of each system at least (default: %(default)s)")
    stopping.add_argument("--max-samples", type=int, help="and at most (default: %(default)s)")
    stopping.add_argument("--noise", type=float, help="stop when every median is known to this share of itself")
    stopping.add_argument("--max-seconds", type=float, help="of a scenario's timed runs, once there are a few")
    stopping.add_argument("--warm-up", type=int, help="untimed runs of each system before a scenario")
    judging = parser.add_argument_group("goals: exit status 3 if one is missed or cannot be judged")
    judging.add_argument("--require-ratio", type=float, metavar="X", help="reference-eager over the runtime, at least")
    judging.add_argument("--require-overhead-us", type=float, metavar="US", help="host overhead per call, at most")
    checks = parser.add_argument_group("checks and roofline")
    checks.add_argument(
        "--min-psnr",
        type=float,
        metavar="DB",
        help="of timed pictures to the reference's (default: %(default)s; 28 at most where bf16 takes part)",
    )
    checks.add_argument("--peak-tflops", type=float, help="of this machine, for the roofline")
    checks.add_argument("--peak-gbs", type=float, help="memory bandwidth of this machine in GB/s, for the roofline")
    checks.add_argument("--measure-peak", action="store_true", help="measure the CPU's own, on as many threads")
    parser.add_argument("--history", metavar="FOLDER", type=Path, help="also keep the results there")
    add_json_argument(parser)


def check(options: LatencyOptions) -> None:
    """What can be wrong before anything is loaded.

    Raises:
        PhotoError: the photo is missing or cannot be read.
        OutputError: the results could not be written.
    """
    from instantrt.conditioning.photo import decode_photo

    check_files([options.out], [options.photo])
    if options.history is not None:
        check_folder(options.history)
    if options.photo is not None:
        decode_photo(options.photo)
