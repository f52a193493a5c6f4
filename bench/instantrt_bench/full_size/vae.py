"""`python -m instantrt_bench.full_size.vae`: SDXL's VAE decoder alone, in each of the three ways it can be exported."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instantrt.atomic import replace_text
from instantrt.bundle import Manifest, PictureSizes, write_manifest
from instantrt.cli.command import ExitStatus, run_to_status
from instantrt.cli.outputs import check_folder
from instantrt.contracts import Precision
from instantrt_bench.full_size.checkpoint import random_checkpoint
from instantrt_bench.full_size.measure import run_measured
from instantrt_bench.full_size.scales import SCALES, Scale
from instantrt_nano.maker import SCHEDULER

NETWORK, TARGET = "vae_decoder", "tensorrt-rtx"


@dataclass(frozen=True)
class Variant:
    """One way: what the checkpoint's config says, and the precision of the weights."""

    name: str
    precision: Precision
    stock: bool


VARIANTS = (
    Variant("fp16-safe VAE", "fp16", stock=False),
    Variant("stock VAE, residual stream scaled", "fp16", stock=True),
    Variant("stock VAE in fp32", "fp32", stock=True),
)
COLUMNS = ("export s", "build s", "plan MB", "weights MB", "activations MB", "peak GB export", "peak GB build")


def main(argv: list[str] | None = None) -> int:
    """Run with command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/full-size-vae"))
    parser.add_argument("--scale", choices=SCALES, default="sdxl")
    args = parser.parse_args(argv)
    return run_to_status("python -m instantrt_bench.full_size.vae", lambda: _run(args))


def _run(args: argparse.Namespace) -> ExitStatus:
    check_folder(args.out)
    rows = {
        variant.name: measured(variant, SCALES[args.scale], args.out / str(i)) for i, variant in enumerate(VARIANTS)
    }
    replace_text(args.out / "vae.json", json.dumps(rows, indent=1) + "\n")
    table = as_table(rows)
    replace_text(args.out / "vae.md", table)
    sys.stdout.write(table)
    return ExitStatus.DONE


def measured(variant: Variant, scale: Scale, out: Path) -> dict[str, float]:
    """Export and build one decoder, each in a process of its own; the figures of :data:`COLUMNS`."""
    side = scale.picture_px
    arguments = [str(out), NETWORK, "--scale", scale.name, "--px", str(side), "--precision", variant.precision]
    export = run_measured("instantrt_bench.full_size.worker", [*arguments, *(["--stock-vae"] if variant.stock else [])])
    dims = random_checkpoint(scale, out / "files", 0).dims
    sizes = PictureSizes((side, side), (side, side), (side, side))
    networks = {NETWORK: f"onnx/{NETWORK}.onnx"}
    bundle = out / "bundle"
    write_manifest(bundle, Manifest(dims, variant.precision, sizes, (1, 4), (1, 2), SCHEDULER, True, networks, {}))
    build = run_measured("instantrt.cli", ["build", str(bundle), "--target", TARGET, "--only", NETWORK, "--json"])
    (built,) = json.loads(build.output)["networks"]
    figures = (
        export.seconds,
        build.seconds,
        built["plan_bytes"] / 1e6,
        built["weight_bytes"] / 1e6,
        max(built["activation_bytes"]) / 1e6,
        export.peak_bytes / 1e9,
        build.peak_bytes / 1e9,
    )
    return {name: round(value, 1) for name, value in zip(COLUMNS, figures, strict=True)}


def as_table(rows: dict[str, dict[str, Any]]) -> str:
    """The figures as a Markdown table."""
    lines = [["decoder", *COLUMNS], ["---", *["---:"] * len(COLUMNS)]]
    lines += [[name, *(f"{row[column]:g}" for column in COLUMNS)] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
