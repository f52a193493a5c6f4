"""`instantrt build` and `instantrt inspect`: their arguments and options."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from instantrt.cli.arguments import add_json_argument, parse_size
from instantrt.cli.outputs import check_files, check_folder
from instantrt.engine import ONNXRUNTIME_CUDA
from instantrt.engine.flavours import FLAVOURS

if TYPE_CHECKING:
    from instantrt.plan import Extent
    from instantrt_engines.profiles import Profiles

UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class BuildCommandOptions:
    """Options of `instantrt build`; see :class:`ShapeOptions` and :class:`BuildOptions` for most of them."""

    bundle: Path
    target: str
    only: Sequence[str] | None = None
    force: bool = False
    slots: Extent = (1, 1, 1)
    slot_profiles: Profiles = "range"
    sizes: Sequence[tuple[int, int]] = ()
    size_profiles: Profiles = "each"
    guidance_batch: Sequence[int] = (1, 2)
    optimization_level: int | None = None
    tiling_level: str | None = None
    aux_streams: int | None = None
    strip_weights: bool = False
    weight_streaming: bool = False
    hardware_compatibility: str | None = None
    version_compatible: bool = False
    fp32_attention: bool = False
    compute: Sequence[str] = ()
    timing_cache: Path | None = None
    allow_slow: bool = False
    log: Path | None = None
    json: bool = False


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `instantrt build`."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--target", required=True, choices=(*FLAVOURS, ONNXRUNTIME_CUDA, "onnxruntime"))
    parser.add_argument("--only", nargs="+", metavar="NETWORK", help="build only these networks")
    parser.add_argument("--force", action="store_true", help="build again what is still valid")
    shapes = parser.add_argument_group("sizes that the plans accept (default: one static size)")
    shapes.add_argument("--slots", type=parse_extent, metavar="MIN:OPT:MAX", help="pictures denoised at once; 1:1:4")
    shapes.add_argument(
        "--slot-profiles",
        choices=("each", "range"),
        help="with several slots: a static profile for each number of them, or one dynamic profile for all",
    )
    shapes.add_argument("--sizes", nargs="+", type=parse_size, metavar="WxH", help="default: the bundle's")
    shapes.add_argument(
        "--size-profiles",
        choices=("each", "range"),
        help="with several sizes: a static profile for each, or one dynamic profile tuned for the first",
    )
    shapes.add_argument(
        "--guidance-batch", nargs="+", type=int, choices=(1, 2), help="guidance off, on (default: both)"
    )
    options = parser.add_argument_group("builder options")
    options.add_argument("--optimization-level", type=int, metavar="0-5")
    options.add_argument("--tiling-level", choices=("none", "fast", "moderate", "full"), help="search for L2 tiling")
    options.add_argument("--aux-streams", type=int, metavar="N", help="most auxiliary streams of one execution")
    options.add_argument("--strip-weights", action="store_true", help="small plans; weights come from the ONNX files")
    options.add_argument("--weight-streaming", action="store_true", help="weights may stay in host memory")
    options.add_argument("--hardware-compatibility", choices=("ampere_plus", "same_compute_capability"))
    options.add_argument("--version-compatible", action="store_true", help="runs with later minor versions too")
    options.add_argument(
        "--fp32-attention", action="store_true", help="fused attention adds up in fp32 (TensorRT 11.3 and later)"
    )
    options.add_argument("--compute", nargs="+", metavar="X.Y", help="GPU compute capabilities to build for")
    options.add_argument("--timing-cache", type=Path, metavar="FILE", help="kernel timings, read and updated")
    options.add_argument("--allow-slow", action="store_true", help="keep plans that the checks would refuse as slow")
    parser.add_argument("--log", type=Path, metavar="FILE", help="keep TensorRT's full log")
    add_json_argument(parser)


def parse_extent(text: str) -> Extent:
    """``"1:1:4"`` as (fewest, best, most); one number stands for all three. For argparse."""
    match = re.fullmatch(r"(\d+)(?::(\d+):(\d+))?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not MIN:OPT:MAX, e.g. 1:1:4")
    low = int(match[1])
    return (low, int(match[2]), int(match[3])) if match[2] else (low, low, low)


def check_build(options: BuildCommandOptions) -> None:
    """Raise :class:`OutputError` where plans, log or timing cache could not be written."""
    check_folder(options.bundle / "plans" / options.target)
    check_files([file for file in (options.log, options.timing_cache) if file is not None])


@dataclass(frozen=True)
class InspectOptions:
    """Options of `instantrt inspect`."""

    bundle: Path
    target: str | None = None
    slots: int = 1
    guidance_batch: int = 2
    size: tuple[int, int] | None = None
    vram: int | None = None  # bytes
    tensors: bool = False
    json: bool = False


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `instantrt inspect`."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--target", choices=tuple(FLAVOURS), help="default: the one that has plans")
    parser.add_argument("--slots", type=int, help="pictures denoised at once (default: %(default)s)")
    parser.add_argument("--guidance-batch", type=int, choices=(1, 2), help="guidance off or on (default: %(default)s)")
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="picture size; default: the bundle's")
    parser.add_argument("--vram", type=parse_bytes, metavar="8GB", help="does it fit into this much device memory?")
    parser.add_argument("--tensors", action="store_true", help="list every input and output with its shape")
    add_json_argument(parser)


def parse_bytes(text: str) -> int:
    """``"8GB"``, ``"7.5 GiB"`` or ``"900MB"`` in bytes; for argparse."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d+)?)\s*(MB|GB|MiB|GiB)", text, re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size in memory, e.g. 8GB")
    return int(float(match[1]) * UNITS[match[2].upper()])
