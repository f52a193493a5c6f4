"""`python -m instantrt_bench.full_size`: all networks at full size to ONNX and to plans, with every figure."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table

from instantrt.atomic import replace_text
from instantrt.bundle import Manifest, PictureSizes, write_manifest
from instantrt.cli.command import ExitStatus, run_to_status
from instantrt.cli.outputs import check_folder
from instantrt.contracts import network_contracts
from instantrt.version import version_of
from instantrt_bench.full_size.checkpoint import random_checkpoint
from instantrt_bench.full_size.measure import Measured, run_measured
from instantrt_bench.full_size.scales import SCALES, Scale
from instantrt_nano.maker import SCHEDULER

TARGET = "tensorrt-rtx"
GB = 1e9

# What the full scale must keep on two cores with 24 GB of memory. More activations than that: an attention of the UNet
# is not fused.
MOST_SECONDS, MOST_MEMORY_GB, MOST_UNET_ACTIVATION_BYTES = 25 * 60, 19, 320e6


@dataclass(frozen=True)
class NetworkFigures:
    """One network. Times are of whole processes; ``activation_bytes`` is the largest profile's."""

    name: str
    export_seconds: float
    build_seconds: float
    onnx_bytes: int
    plan_bytes: int
    weight_bytes: int
    activation_bytes: int
    peak_memory_gb: float
    export_peak_memory_gb: float
    build_peak_memory_gb: float


def main(argv: list[str] | None = None) -> int:
    """Run with command-line arguments; ``MISSED`` if the full scale takes more than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/full-size"))
    parser.add_argument("--scale", choices=SCALES, default="sdxl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stock-vae", action="store_true", help="a VAE that overflows in fp16, as SDXL's own")
    parser.add_argument("--keep", action="store_true", help="use what an interrupted run has exported")
    args = parser.parse_args(argv)
    return run_to_status("python -m instantrt_bench.full_size", lambda: _run(args))


def _run(args: argparse.Namespace) -> ExitStatus:
    check_folder(args.out)
    options = ["--stock-vae"] if args.stock_vae else []
    report = full_size(SCALES[args.scale], args.out, args.seed, options, keep=args.keep)
    replace_text(args.out / "full-size.json", json.dumps(report, indent=1) + "\n")
    replace_text(args.out / "full-size.md", as_table(report))
    print_table(report)
    broken = broken_limits(report) if args.scale == "sdxl" else []
    for text in broken:
        _say(text)
    return ExitStatus.MISSED if broken else ExitStatus.DONE


def full_size(scale: Scale, out: Path, seed: int, options: Sequence[str] = (), *, keep: bool = False) -> dict[str, Any]:
    """Export, then build, each network in a process of its own, so that each one's memory is its own.

    Args:
        scale: sizes of the networks.
        out: gets ``files/``, ``bundle/`` and the report.
        seed: of the weights.
        options: further arguments of the worker that exports a network.
        keep: leave out exporting what ``bundle/`` has.

    Returns:
        the report: ``networks``, ``total_seconds``, ``peak_memory_gb`` (of the largest process) and the machine.
    """
    start = perf_counter()
    bundle = out / "bundle"
    dims = random_checkpoint(scale, out / "files", seed).dims
    names = list(network_contracts(dims))
    exports = {name: _export(out, name, scale, seed, options, keep) for name in names}
    side = scale.picture_px
    sizes = PictureSizes((side, side), (side, side), (side, side))
    networks = {name: f"onnx/{name}.onnx" for name in names}
    made_by = {name: version_of(name) for name in ("instantrt", "torch", "diffusers", "transformers", "onnx")}
    write_manifest(bundle, Manifest(dims, "fp16", sizes, (1, 4), (1, 2), SCHEDULER, True, networks, made_by))
    figures = [_figures(bundle, name, exports[name], _build(bundle, name)) for name in names]
    return {
        "scale": scale.name,
        "picture_px": side,
        "networks": [asdict(f) for f in figures],
        "total_seconds": round(perf_counter() - start, 1),
        "peak_memory_gb": max(f.peak_memory_gb for f in figures),
        "machine": {"cpus": os.cpu_count(), "memory_gb": _machine_memory_gb(), "python": platform.python_version()},
        "versions": made_by | {"tensorrt-rtx": version_of("tensorrt-rtx-cu13-bindings")},
    }


def _export(out: Path, name: str, scale: Scale, seed: int, options: Sequence[str], keep: bool) -> Measured:
    if keep and (out / "bundle/onnx" / f"{name}.onnx").is_file():
        return Measured(0.0, 0, "")
    _say(f"export {name}")
    arguments = [str(out), name, "--scale", scale.name, "--px", str(scale.picture_px), "--seed", str(seed)]
    return run_measured("instantrt_bench.full_size.worker", [*arguments, *options])


def _build(bundle: Path, name: str) -> Measured:
    _say(f"build {name}")
    return run_measured("instantrt.cli", ["build", str(bundle), "--target", TARGET, "--only", name, "--json"])


def _figures(bundle: Path, name: str, export: Measured, build: Measured) -> NetworkFigures:
    (built,) = json.loads(build.output)["networks"]
    files = (bundle / "onnx" / f"{name}.onnx", bundle / "onnx" / f"{name}.onnx.data")
    return NetworkFigures(
        name=name,
        export_seconds=round(export.seconds, 1),
        build_seconds=round(build.seconds, 1),
        onnx_bytes=sum(file.stat().st_size for file in files if file.is_file()),
        plan_bytes=built["plan_bytes"],
        weight_bytes=built["weight_bytes"],
        activation_bytes=max(built["activation_bytes"]),
        peak_memory_gb=round(max(export.peak_bytes, build.peak_bytes) / GB, 2),
        export_peak_memory_gb=round(export.peak_bytes / GB, 2),
        build_peak_memory_gb=round(build.peak_bytes / GB, 2),
    )


def broken_limits(report: dict[str, Any]) -> list[str]:
    """What the run took too much of, in words."""
    (unet,) = (figures for figures in report["networks"] if figures["name"] == "unet")
    checks = (
        ("the whole run, s", report["total_seconds"], MOST_SECONDS),
        ("peak memory, GB", report["peak_memory_gb"], MOST_MEMORY_GB),
        ("activations of the unet, bytes", unet["activation_bytes"], MOST_UNET_ACTIVATION_BYTES),
    )
    return [f"{what}: {measured:g}, the limit is {most:g}" for what, measured, most in checks if measured > most]


COLUMNS: dict[str, Callable[[dict[str, Any]], str]] = {
    "network": lambda f: f["name"],
    "export s": lambda f: f"{f['export_seconds']:.0f}",
    "build s": lambda f: f"{f['build_seconds']:.0f}",
    "ONNX MB": lambda f: f"{f['onnx_bytes'] / 1e6:.0f}",
    "plan MB": lambda f: f"{f['plan_bytes'] / 1e6:.0f}",
    "weights MB": lambda f: f"{f['weight_bytes'] / 1e6:.0f}",
    "activations MB": lambda f: f"{f['activation_bytes'] / 1e6:.0f}",
    "peak GB export": lambda f: f"{f['export_peak_memory_gb']:.1f}",
    "peak GB build": lambda f: f"{f['build_peak_memory_gb']:.1f}",
}


def as_table(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    rows = [[cell(figures) for cell in COLUMNS.values()] for figures in report["networks"]]
    lines = [list(COLUMNS), ["---", *["---:"] * (len(COLUMNS) - 1)], *rows]
    total = f"{report['total_seconds']:.0f} s in all, peak memory {report['peak_memory_gb']:.1f} GB"
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{total}\n"


def print_table(report: dict[str, Any]) -> None:
    """The same on the terminal."""
    table = Table(box=None, pad_edge=False)
    for index, heading in enumerate(COLUMNS):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    for figures in report["networks"]:
        table.add_row(*(cell(figures) for cell in COLUMNS.values()))
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)
    console.print(f"{report['total_seconds']:.0f} s in all, peak memory {report['peak_memory_gb']:.1f} GB")


def _say(text: str) -> None:
    Console(stderr=True).print(text, highlight=False)


def _machine_memory_gb() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GB, 1)


if __name__ == "__main__":
    raise SystemExit(main())
