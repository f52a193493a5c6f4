"""One portrait through the runtime and through the reference, side by side: ``python -m instantrt_bench.demo``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from instantrt.atomic import replace_text
from instantrt.bundle import Bundle
from instantrt.cli.arguments import parse_positive
from instantrt.cli.command import ExitStatus, run_to_status
from instantrt.cli.outputs import check_folder, save_picture
from instantrt.conditioning.photo import decode_photo
from instantrt.prepare import Preparation, Prepared, check_request
from instantrt_bench.cases.portrait import portrait_jpeg
from instantrt_bench.latency.measure import Fleet, Rules, measure
from instantrt_bench.latency.scenario import PROMPT, SEED, Requests, Scenario
from instantrt_bench.latency.summary import scenario_result
from instantrt_bench.latency.systems import Sample, SystemSpec
from instantrt_bench.latency.worker import WorkerError
from instantrt_bench.results.contact_sheet import Tile, amplified_difference, contact_sheet
from instantrt_bench.results.files import ScenarioResult
from instantrt_bench.results.machine import MAX_FOREIGN_CPUS, machine_facts, system_threads
from instantrt_bench.results.metrics import psnr_db, relative_error, ssim
from instantrt_bench.results.systems import REFERENCE_EAGER, RUNTIME_ONNXRUNTIME
from instantrt_bench.results.tables import scenario_table

DIFFERENCE_GAIN = 64
RUNS = 5
HEAD = (112, 0, 336, 224)  # left, top, right, bottom in the portrait, pixels
SDXL_TOKEN_WIDTH = 2048
TEST_CHECKPOINT = "A tiny test checkpoint: it shows that both pipelines agree, not how good InstantID's pictures are."


@dataclass(frozen=True)
class Demo:
    """Both pipelines' answers to one request, and their times in several others."""

    prepared: Prepared
    runtime: Sample
    reference: Sample
    times: ScenarioResult
    threads: int

    @property
    def ratio(self) -> float:
        """Median latency of the reference over that of the runtime."""
        return float(self.times.comparison["ratios"][RUNTIME_ONNXRUNTIME]["estimate"])

    @property
    def quiet(self) -> bool:
        """Whether no other process slowed the runs down."""
        return (self.times.comparison["foreign_cpus"] or 0.0) <= MAX_FOREIGN_CPUS

    def latency_ms(self, system: str) -> float:
        """Median latency of that system."""
        return float(self.times.systems[system].summary["latency_ms"]["p50"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit status."""
    options = _parser().parse_args(arguments)
    return run_to_status("python -m instantrt_bench.demo", lambda: _demo(options))


def _demo(options: argparse.Namespace) -> ExitStatus:
    check_folder(options.out)
    options.threads = system_threads(options.threads)
    try:
        demo, note = _run(options)
    except WorkerError as error:
        sys.stderr.write(f"{error}\n")
        return ExitStatus.USER_ERROR
    save_picture(_sheet(demo, note), options.out / "demo.png")
    facts = _facts(demo)
    replace_text(options.out / "demo.json", json.dumps(facts, indent=2) + "\n")
    sys.stdout.write(_summary(demo, facts, options.out))
    return ExitStatus.DONE


def _run(options: argparse.Namespace) -> tuple[Demo, str]:
    """The demo, and what must be said of the checkpoint."""
    bundle = Bundle.open(options.bundle)
    width, height = bundle.manifest.sizes.default
    scenario = Scenario(steps=options.steps, guidance_scale=3.0, width=width, height=height)
    requests = Requests(_head_photo(), options.prompt, options.seed)
    check_request(requests.plain(scenario), bundle)
    with Preparation.load(options.bundle, threads=options.threads) as preparation:
        prepared = preparation.prepare(requests.plain(scenario))
    specs = [
        SystemSpec(name, options.bundle, options.checkpoint, options.threads)
        for name in (RUNTIME_ONNXRUNTIME, REFERENCE_EAGER)
    ]
    with Fleet(specs) as fleet:
        runtime, reference = (fleet.worker(spec.name)[0].run(prepared.request).sample for spec in specs)
        measured = measure(fleet, scenario, requests, Rules(warm_up=1, min_samples=RUNS, max_samples=RUNS))
    for track in measured.tracks.values():
        if not track.running:
            raise WorkerError(f"{track.name}: {track.error}")
    note = TEST_CHECKPOINT if bundle.dims.token_width < SDXL_TOKEN_WIDTH else ""
    return Demo(prepared, runtime, reference, scenario_result(measured), options.threads), note


def _head_photo() -> bytes:
    """The demo's portrait cut to head and shoulders, so that the face is not tiny in a small picture: a PNG file."""
    file = BytesIO()
    Image.fromarray(decode_photo(portrait_jpeg()).pixels).crop(HEAD).save(file, format="PNG")
    return file.getvalue()


def _sheet(demo: Demo, note: str) -> Image.Image:
    request = demo.prepared.request
    ours, theirs = demo.runtime.pixels[0], demo.reference.pixels[0]
    largest = int(np.abs(ours.astype(int) - theirs.astype(int)).max())
    tiles = [
        Tile("photo", decode_photo(request.face).pixels, "NASA, public domain"),
        Tile("keypoints", demo.prepared.identity.control_image, "what places the face"),
        Tile("runtime", ours, f"ONNX Runtime, {demo.latency_ms(RUNTIME_ONNXRUNTIME):.0f} ms"),
        Tile("reference", theirs, f"diffusers, {demo.latency_ms(REFERENCE_EAGER):.0f} ms"),
        Tile(
            f"difference x {DIFFERENCE_GAIN}",
            amplified_difference(ours, theirs, DIFFERENCE_GAIN),
            f"largest: {largest} of 255 grey levels",
        ),
    ]
    speed = f"{demo.ratio:.1f}x faster" if demo.quiet else "busy machine, times not comparable"
    title = (
        f"\u201c{demo.prepared.prompt}\u201d   {request.steps} steps   {speed}   "
        f"PSNR {psnr_db(ours, theirs):.1f} dB   SSIM {ssim(ours, theirs):.4f}"
    )
    footer = (
        f"{request.sampler}, guidance {request.guidance_scale:g}, seed {demo.prepared.seed}, "
        f"{demo.prepared.width}x{demo.prepared.height} px. Same weights, noise and thread count; median of {RUNS} "
        f"alternating runs, photo to picture. {note}"
    )
    return contact_sheet(tiles, title, footer)


def _facts(demo: Demo) -> dict[str, Any]:
    request, ours, theirs = demo.prepared.request, demo.runtime, demo.reference
    systems = demo.times.systems
    overheads_us = {name: system.summary["host_overhead_us_per_call"]["p50"] for name, system in systems.items()}
    return {
        "psnr_db": round(psnr_db(ours.pixels, theirs.pixels), 2),
        "ssim": round(ssim(ours.pixels, theirs.pixels), 6),
        "latents_relative_error": relative_error(ours.latents, theirs.latents),
        "latency_ms_runtime": round(demo.latency_ms(RUNTIME_ONNXRUNTIME), 2),
        "latency_ms_reference": round(demo.latency_ms(REFERENCE_EAGER), 2),
        "latency_ratio": round(demo.ratio, 3),
        "steps": request.steps,
        "host_overhead_us_per_call": round(overheads_us[RUNTIME_ONNXRUNTIME], 1),
        "host_overhead_us_per_call_reference": round(overheads_us[REFERENCE_EAGER], 1),
        "quiet": demo.quiet,
        "foreign_cpus": demo.times.comparison["foreign_cpus"],
        "runs": len(systems[RUNTIME_ONNXRUNTIME].samples["latency_ms"]),
        "threads": demo.threads,
        "prompt": demo.prepared.prompt,
        "sampler": request.sampler,
        "guidance_scale": request.guidance_scale,
        "seed": demo.prepared.seed,
        "width": demo.prepared.width,
        "height": demo.prepared.height,
        "runtime": systems[RUNTIME_ONNXRUNTIME].samples,
        "reference": systems[REFERENCE_EAGER].samples,
        "machine": machine_facts(),
    }


def _summary(demo: Demo, facts: dict[str, Any], out: Path) -> str:
    return (
        f"{scenario_table(demo.times)}"
        f"PSNR {facts['psnr_db']} dB, SSIM {facts['ssim']}, latents {facts['latents_relative_error']:.1e} apart\n"
        f"{facts['steps']} steps, {facts['threads']} threads, medians of {facts['runs']} alternating runs\n"
        f"{out / 'demo.png'}\n{out / 'demo.json'}\n"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m instantrt_bench.demo", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder that `instantrt export` made")
    parser.add_argument("checkpoint", help="the checkpoint it was made from: folder or hub id")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for demo.png and demo.json")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=parse_positive, help="of both pipelines; default: all usable")
    return parser


if __name__ == "__main__":
    sys.exit(main())
