"""One portrait through the runtime and through the reference, side by side: ``python -m instantrt_bench.demo``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from instantrt import GenerateRequest, InstantID, InstantRTError, Prepared
from instantrt.prelude.photo import decode_photo
from instantrt_bench.contact_sheet import Tile, amplified_difference, contact_sheet
from instantrt_bench.latency import Race, race, stage_table, varied
from instantrt_bench.machine import machine_facts, usable_cpus
from instantrt_bench.portrait import portrait_jpeg
from instantrt_bench.reference import Reference
from instantrt_export.checkpoint import Checkpoint

DIFFERENCE_GAIN = 64
RUNS = 5
SDXL_TOKEN_WIDTH = 2048
TEST_CHECKPOINT = "A tiny test checkpoint: it shows that both pipelines agree, not how good InstantID's pictures are."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    options = _parser().parse_args(arguments)

    def request(variant: int) -> GenerateRequest:
        return GenerateRequest(
            face=portrait_jpeg(variant),
            prompt=varied(options.prompt, variant),
            steps=options.steps,
            seed=options.seed,
            guidance_scale=3.0,
        )

    try:
        reference = Reference.load(Checkpoint.open(options.checkpoint), threads=options.threads)
        with InstantID.load(options.bundle, threads=options.threads) as runtime:
            result = race(runtime, reference, request, RUNS)
            prepared = runtime.prepare(request(0))
            note = TEST_CHECKPOINT if runtime.bundle.dims.token_width < SDXL_TOKEN_WIDTH else ""
    except InstantRTError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    _sheet(result, prepared, note).save(options.out / "demo.png")
    facts = _facts(result, prepared, options.threads)
    (options.out / "demo.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write(_summary(result, facts, options.out))
    return 0


def _sheet(result: Race, prepared: Prepared, note: str) -> Image.Image:
    request, compared = prepared.request, result.comparison
    ours, theirs = compared.runtime.pixels[0], compared.reference.images[0]
    largest = int(np.abs(ours.astype(int) - theirs.astype(int)).max())
    tiles = [
        Tile("photo", decode_photo(request.face), "NASA, public domain"),
        Tile("keypoints", prepared.identity.control_image, "what places the face"),
        Tile("runtime", ours, f"ONNX Runtime, {result.runtime.latency_ms:.0f} ms"),
        Tile("reference", theirs, f"diffusers, {result.reference.latency_ms:.0f} ms"),
        Tile(
            f"difference x {DIFFERENCE_GAIN}",
            amplified_difference(ours, theirs, DIFFERENCE_GAIN),
            f"largest: {largest} of 255 grey levels",
        ),
    ]
    speed = f"{result.ratio:.1f}x faster" if result.quiet else "busy machine, times not comparable"
    title = (
        f"\u201c{prepared.prompt}\u201d   {request.steps} steps   {speed}   "
        f"PSNR {compared.psnr_db:.1f} dB   SSIM {compared.ssim:.4f}"
    )
    footer = (
        f"{request.sampler}, guidance {request.guidance_scale:g}, seed {prepared.seed}, "
        f"{prepared.width}x{prepared.height} px. Same weights, noise and thread count; median of {RUNS} alternating "
        f"runs, photo to picture. {note}"
    )
    return contact_sheet(tiles, title, footer)


def _facts(result: Race, prepared: Prepared, threads: int) -> dict[str, Any]:
    request, compared = prepared.request, result.comparison
    return {
        "psnr_db": round(compared.psnr_db, 2),
        "ssim": round(compared.ssim, 6),
        "latents_relative_error": compared.latents_error,
        "latency_ms_runtime": round(result.runtime.latency_ms, 2),
        "latency_ms_reference": round(result.reference.latency_ms, 2),
        "latency_ratio": round(result.ratio, 3),
        "steps": request.steps,
        "host_overhead_us_per_step": round(result.runtime.overhead_us_per_step, 1),
        "host_overhead_us_per_step_reference": round(result.reference.overhead_us_per_step, 1),
        "quiet": result.quiet,
        "foreign_cpus": None if result.foreign_cpus is None else round(result.foreign_cpus, 2),
        "runs": len(result.runtime.runs),
        "threads": threads,
        "prompt": prepared.prompt,
        "sampler": request.sampler,
        "guidance_scale": request.guidance_scale,
        "seed": prepared.seed,
        "width": prepared.width,
        "height": prepared.height,
        "runtime": result.runtime.to_json(),
        "reference": result.reference.to_json(),
        "machine": machine_facts(),
    }


def _summary(result: Race, facts: dict[str, Any], out: Path) -> str:
    return (
        f"{stage_table(result)}\n"
        f"PSNR {facts['psnr_db']} dB, SSIM {facts['ssim']}, latents {facts['latents_relative_error']:.1e} apart\n"
        f"{facts['steps']} steps, {facts['threads']} threads, medians of {facts['runs']} alternating runs\n"
        f"{out / 'demo.png'}\n{out / 'demo.json'}\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m instantrt_bench.demo", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder that `instantrt export` made")
    parser.add_argument("checkpoint", help="the checkpoint it was made from: folder or hub id")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for demo.png and demo.json")
    parser.add_argument("--prompt", default="film noir portrait of a person")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="of both pipelines (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
