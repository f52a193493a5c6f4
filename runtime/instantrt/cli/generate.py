"""`instantrt generate`: one request from the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from instantrt.cli.common import ProgressLine, parse_size, print_json
from instantrt.cli.packaged import add_bundle_arguments, find_bundle
from instantrt.errors import RequestError

HELP = "make pictures of a person from one photo"
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments; defaults are those of the request."""
    add_bundle_arguments(parser)
    parser.add_argument("--face", metavar="PHOTO", required=True, help="the photo whose person is shown")
    parser.add_argument("--prompt", metavar="TEXT", required=True)
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="with samples, FILE-1, FILE-2, ...")
    parser.add_argument("--negative-prompt", metavar="TEXT")
    parser.add_argument("--style", metavar="NAME")
    parser.add_argument("--pose", metavar="PHOTO", help="keypoints and face box come from this photo instead")
    parser.add_argument("--samples", type=int, default=1, help="1-4")
    parser.add_argument("--steps", type=int, default=10, help="4-100")
    parser.add_argument("--guidance-scale", type=float, default=5.0, help="1-25, 1 turns guidance off")
    parser.add_argument("--sampler", default="euler")
    parser.add_argument("--seed", type=int, default=-1, help="-1 draws one")
    parser.add_argument("--identity-strength", type=float, default=0.8, help="0-1")
    parser.add_argument("--adapter-strength", type=float, default=0.8, help="0-1")
    parser.add_argument("--enhance-face-region", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="default: the bundle's")
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--threads", type=int, help="CPU threads one network may use (onnxruntime)")
    parser.add_argument("--device", type=int, metavar="N", help="ordinal of the GPU (tensorrt, tensorrt-rtx)")
    parser.add_argument(
        "--weight-budget",
        type=int,
        metavar="BYTES",
        help="device memory for each network's weights, if built to stream",
    )
    parser.add_argument(
        "--runtime-cache",
        type=Path,
        metavar="FOLDER",
        help="for kernels compiled here (tensorrt-rtx; default: the plans')",
    )
    parser.add_argument("--eager", action="store_true", help="launch each step anew instead of a captured graph")
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")


def run(args: argparse.Namespace) -> None:
    """Generate, save, report."""
    from instantrt.pipeline import InstantID

    files = output_files(args.out, args.samples)
    with InstantID.load(
        find_bundle(args),
        target=args.target,
        threads=args.threads,
        device=args.device,
        weight_budget_bytes=args.weight_budget,
        runtime_cache=args.runtime_cache,
        eager=args.eager,
    ) as pipeline:
        result = pipeline.generate(progress=ProgressLine("denoising"), **_request_fields(args))
    for file, image in zip(files, result.images, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
    for warning in result.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    names = [str(file) for file in files]
    if args.json:
        timings = result.timings.to_json()
        print_json({"files": names, "seed": result.seed, "warnings": result.warnings, "timings": timings})
    else:
        print(f"{', '.join(names)}  seed {result.seed}  {result.timings.total_ms:.0f} ms")


def output_files(out: Path, samples: int) -> list[Path]:
    """One file per sample: ``out`` itself for one, ``out-1``, ``out-2``, ... for several.

    Raises:
        RequestError: a suffix that is not that of a picture.
    """
    if out.suffix.lower() not in IMAGE_SUFFIXES:
        raise RequestError(f"cannot tell a picture format from {out.name!r}", hint=f"use {', '.join(IMAGE_SUFFIXES)}")
    if samples <= 1:
        return [out]
    return [out.with_stem(f"{out.stem}-{i}") for i in range(1, samples + 1)]


def _request_fields(args: argparse.Namespace) -> dict[str, Any]:
    width, height = args.size or (None, None)
    return {
        "face": args.face,
        "prompt": args.prompt,
        "negative_prompt": args.negative_prompt,
        "style": args.style,
        "pose": args.pose,
        "samples": args.samples,
        "steps": args.steps,
        "guidance_scale": args.guidance_scale,
        "sampler": args.sampler,
        "seed": args.seed,
        "identity_strength": args.identity_strength,
        "adapter_strength": args.adapter_strength,
        "enhance_face_region": args.enhance_face_region,
        "width": width,
        "height": height,
    }
