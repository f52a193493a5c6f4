"""Arguments and options that `instantrt bench fidelity` and `identity` share: which pictures are made, and by what."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from instantrt.cli.arguments import add_json_argument, parse_positive, parse_size
from instantrt.cli.outputs import check_files, check_folder
from instantrt.engine import PRECISION_HINTS, PrecisionHint, TargetOptions
from instantrt.request import RANGES, GenerateRequest


@dataclass(frozen=True, kw_only=True)
class CaseOptions:
    """What both commands ask for. Defaults of what is a request's are the request's, where ``out`` lies is theirs."""

    bundle: Path
    checkpoint: str
    target: str = "onnxruntime"
    threads: int | None = None
    precision_hint: PrecisionHint | None = None
    manifest: Path | None = None
    steps: int = GenerateRequest.steps
    guidance_scale: float = GenerateRequest.guidance_scale
    identity_strength: float = GenerateRequest.identity_strength
    adapter_strength: float = GenerateRequest.adapter_strength
    enhance_face_region: bool = GenerateRequest.enhance_face_region
    size: tuple[int, int] | None = None
    json: bool = False
    out: Path


def add_case_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of :class:`CaseOptions`."""
    parser.add_argument("bundle", metavar="BUNDLE", type=Path)
    parser.add_argument("--checkpoint", required=True, help="what the bundle was made from: folder or hub id")
    parser.add_argument("--target", help="what executes the bundle (default: %(default)s)")
    parser.add_argument(
        "--threads", type=parse_positive, help="CPU threads of each system; default: all that may be used"
    )
    parser.add_argument(
        "--precision-hint", choices=PRECISION_HINTS, help="what networks compute in (openvino; default: f32)"
    )
    cases = parser.add_argument_group("cases: every photo with every prompt, seed and sampler")
    cases.add_argument(
        "--manifest", metavar="FILE", type=Path, help="photos and prompts, JSON or CSV; default: two public portraits"
    )
    cases.add_argument("--steps", type=int, help=f"{RANGES['steps']} (default: %(default)s)")
    cases.add_argument("--guidance-scale", type=float, help="(default: %(default)s)")
    cases.add_argument("--identity-strength", type=float, help="(default: %(default)s)")
    cases.add_argument("--adapter-strength", type=float, help="(default: %(default)s)")
    cases.add_argument("--enhance-face-region", action=argparse.BooleanOptionalAction)
    cases.add_argument("--size", type=parse_size, metavar="WxH", help="default: the bundle's")
    add_json_argument(parser)


def check_case_options(options: CaseOptions) -> None:
    """What can be wrong before anything is loaded.

    Raises:
        RequestError: an unknown target, or an option that it lacks.
        OutputError: results or pictures could not be written.
    """
    from instantrt.targets import check_target

    check_files([options.out], [options.manifest])
    check_folder(options.out.with_name(f"{options.out.stem}-pictures"))
    check_target(options.target, TargetOptions(precision_hint=options.precision_hint))
