"""`instantrt generate`: one request from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from instantrt.cli.arguments import add_json_argument, parse_size
from instantrt.cli.bundles import add_bundle_arguments, find_bundle
from instantrt.cli.command import Command, ExitStatus, ProgressDisplay, print_json
from instantrt.cli.outputs import check_files, save_picture
from instantrt.engine import OPENVINO_DEVICES, PRECISION_HINTS, OpenVinoDevice, PrecisionHint, TargetOptions
from instantrt.errors import RequestError
from instantrt.request import RANGES, SAMPLER_NAMES, GenerateRequest
from instantrt.residency import RESIDENCY_OPTIONS, ResidencyOption

if TYPE_CHECKING:
    from instantrt.result import GenerateResult

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class GenerateOptions:
    """The command's options; what they share with :class:`GenerateRequest` has its names and defaults."""

    bundle: str
    face: str
    prompt: str
    out: Path
    cache: Path | None = None
    negative_prompt: str | None = GenerateRequest.negative_prompt
    style: str | None = GenerateRequest.style
    pose: str | None = None
    samples: int = GenerateRequest.samples
    steps: int = GenerateRequest.steps
    guidance_scale: float = GenerateRequest.guidance_scale
    seed: int = GenerateRequest.seed
    sampler: str = GenerateRequest.sampler
    identity_strength: float = GenerateRequest.identity_strength
    adapter_strength: float = GenerateRequest.adapter_strength
    enhance_face_region: bool = GenerateRequest.enhance_face_region
    control_guidance_start: float = GenerateRequest.control_guidance_start
    control_guidance_end: float = GenerateRequest.control_guidance_end
    size: tuple[int, int] | None = None
    target: str = "onnxruntime"
    threads: int | None = None
    device: int | None = None
    weight_budget: int | None = None
    runtime_cache: Path | None = None
    residency: ResidencyOption | None = None
    precision_hint: PrecisionHint | None = None
    openvino_device: OpenVinoDevice | None = None
    eager: bool = False
    json: bool = False

    @property
    def request(self) -> GenerateRequest:
        """What is asked for.

        Raises:
            RequestError: a value that no request can have.
        """
        width, height = self.size or (None, None)
        shared = {field.name for field in fields(GenerateRequest)} & {field.name for field in fields(self)}
        return GenerateRequest(**{name: getattr(self, name) for name in shared}, width=width, height=height)

    @property
    def files(self) -> list[Path]:
        """One file per sample.

        Raises:
            RequestError: a suffix that is not that of a picture.
        """
        return output_files(self.out, self.samples)

    @property
    def target_options(self) -> TargetOptions:
        """How the target runs.

        Raises:
            RequestError: a number that is out of range.
        """
        return TargetOptions(
            self.threads,
            self.device,
            self.weight_budget,
            self.runtime_cache,
            self.residency,
            self.precision_hint,
            self.openvino_device,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_bundle_arguments(parser)
    parser.add_argument("--face", metavar="PHOTO", required=True, help="the photo whose person is shown")
    parser.add_argument("--prompt", metavar="TEXT", required=True)
    parser.add_argument("--out", metavar="FILE", type=Path, required=True, help="with samples, FILE-1, FILE-2, ...")
    parser.add_argument("--negative-prompt", metavar="TEXT")
    parser.add_argument("--style", metavar="NAME")
    parser.add_argument("--pose", metavar="PHOTO", help="keypoints and face box come from this photo instead")
    parser.add_argument("--samples", type=int, help=f"{RANGES['samples']} (default: %(default)s)")
    parser.add_argument("--steps", type=int, help=f"{RANGES['steps']} (default: %(default)s)")
    parser.add_argument(
        "--guidance-scale", type=float, help=f"{RANGES['guidance_scale']}, 1 turns guidance off (default: %(default)s)"
    )
    parser.add_argument("--sampler", metavar="NAME", help=f"any of {', '.join(SAMPLER_NAMES)} (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="-1 draws one")
    parser.add_argument("--identity-strength", type=float, help=f"{RANGES['identity_strength']} (default: %(default)s)")
    parser.add_argument("--adapter-strength", type=float, help=f"{RANGES['adapter_strength']} (default: %(default)s)")
    parser.add_argument("--enhance-face-region", action=argparse.BooleanOptionalAction)
    parser.add_argument(
        "--control-guidance-start", type=float, help="share of the steps after which IdentityNet starts"
    )
    parser.add_argument("--control-guidance-end", type=float, help="share of the steps before it stops")
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="default: the bundle's")
    parser.add_argument("--target")
    parser.add_argument("--threads", type=int, help="CPU threads one network may use (onnxruntime, openvino)")
    parser.add_argument("--device", type=int, metavar="N", help="ordinal of the GPU (not onnxruntime)")
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
        help="for what is compiled here (tensorrt-rtx, default: the plans'; openvino, default: not kept)",
    )
    parser.add_argument(
        "--residency",
        choices=RESIDENCY_OPTIONS,
        help="keep all weights loaded, or only those of a request's stage, or stream them (default: resident)",
    )
    parser.add_argument(
        "--precision-hint", choices=PRECISION_HINTS, help="what networks compute in (openvino; default: f32)"
    )
    parser.add_argument("--openvino-device", choices=OPENVINO_DEVICES, help="what it runs on (default: CPU)")
    parser.add_argument("--eager", action="store_true", help="launch each step anew instead of a captured graph")
    add_json_argument(parser)


def check(options: GenerateOptions) -> None:
    """All that can be wrong before there is a bundle, so that nobody waits for an export or for networks to hear of it.

    Raises:
        RequestError: a value that no request or target can have.
        PhotoError: a photo that is missing or cannot be read.
        OutputError: a picture that could not be written.
    """
    from instantrt.conditioning.photo import decode_photo
    from instantrt.targets import check_target

    request = options.request
    check_files(options.files, (options.face, options.pose))
    check_target(options.target, options.target_options)
    for photo in (request.face, request.pose):
        if photo is not None:
            decode_photo(photo)


def generate(options: GenerateOptions) -> ExitStatus:
    """Generate, save, report."""
    from instantrt.bundle import Bundle
    from instantrt.pipeline import InstantID
    from instantrt.prepare import check_request

    request = options.request
    folder = find_bundle(options.bundle, options.cache)
    check_request(request, Bundle.open(folder))
    target = options.target_options
    with (
        InstantID.load(
            folder,
            target=options.target,
            threads=target.threads,
            device=target.device,
            weight_budget_bytes=target.weight_budget_bytes,
            runtime_cache=target.runtime_cache,
            residency=target.residency,
            precision_hint=target.precision_hint,
            openvino_device=target.openvino_device,
            eager=options.eager,
        ) as pipeline,
        ProgressDisplay() as display,
    ):
        result = pipeline.run(request, progress=display.task("denoising"))
    for file, image in zip(options.files, result.images, strict=True):
        save_picture(image, file)
    _report(result, options.files, as_json=options.json)
    return ExitStatus.DONE


def _report(result: GenerateResult, files: list[Path], *, as_json: bool) -> None:
    for warning in result.warnings:
        sys.stderr.write(f"warning: {warning}\n")
    names = [str(file) for file in files]
    if as_json:
        timings = result.timings.to_json()
        print_json({"files": names, "seed": result.seed, "warnings": result.warnings, "timings": timings})
    else:
        sys.stdout.write(f"{', '.join(names)}  seed {result.seed}  {result.timings.total_ms:.0f} ms\n")


def output_files(out: Path, samples: int) -> list[Path]:
    """One file per sample: ``out`` itself for one, ``out-1``, ``out-2``, ... for several.

    Raises:
        RequestError: a suffix that is not that of a picture.
    """
    if out.suffix.lower() not in IMAGE_SUFFIXES:
        raise RequestError(
            "cannot tell a picture format", found=repr(out.name), hint=f"use {', '.join(IMAGE_SUFFIXES)}"
        )
    if samples <= 1:
        return [out]
    return [out.with_stem(f"{out.stem}-{i}") for i in range(1, samples + 1)]


def _load() -> Callable[[GenerateOptions], ExitStatus]:
    return generate


COMMAND = Command(
    "generate",
    "make pictures of a person from one photo",
    GenerateOptions,
    add_arguments,
    _load,
    lambda _: "cpu",
    check,
)
