"""`python -m instantrt_bench.full_size.numbers`: one full-size step in ONNX Runtime against torch, both in fp32.

Each side runs in a process of its own, one after the other, because two sets of fp32 weights do not fit into memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from instantrt.atomic import replace_text
from instantrt.cli.command import ExitStatus, run_to_status
from instantrt.cli.outputs import check_folder
from instantrt.contracts import ModelDims, loop_buffer, network_contracts
from instantrt_bench.full_size.checkpoint import random_checkpoint
from instantrt_bench.full_size.measure import run_measured
from instantrt_bench.full_size.scales import SCALES, Scale
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.networks.builders import build_network
from instantrt_export.parity import compare, torch_outputs
from instantrt_export.parity_inputs import random_inputs

Array = npt.NDArray[Any]
Run = Callable[[str, dict[str, Array]], dict[str, Array]]
LOOP = ("identitynet", "unet")
OUTPUTS = ("next_latents", "next_history")
LIMIT = 1e-4


def main(argv: list[str] | None = None) -> int:
    """Run with command-line arguments; ``MISSED`` if the error is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/full-size-numbers"))
    parser.add_argument("--scale", choices=SCALES, default="sdxl")
    parser.add_argument("--px", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", choices=("torch", "onnx"), help=argparse.SUPPRESS)
    parser.add_argument("--result", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.side is not None:
        one_side(args.side, SCALES[args.scale], args.out, args.px, args.seed, args.result)
        return ExitStatus.DONE
    return run_to_status("python -m instantrt_bench.full_size.numbers", lambda: _compare(args))


def _compare(args: argparse.Namespace) -> ExitStatus:
    check_folder(args.out)
    report = compare_step(SCALES[args.scale], args.out, args.px, args.seed)
    replace_text(args.out / "numbers.json", json.dumps(report, indent=1) + "\n")
    for name, value in report.items():
        print(f"{name:<24} {value}")  # noqa: T201 - the command's output
    return ExitStatus.MISSED if report["relative_error"] > LIMIT else ExitStatus.DONE


def compare_step(scale: Scale, out: Path, px: int, seed: int) -> dict[str, Any]:
    """Export both loop networks in fp32, run one step on each side, compare the next latents.

    Returns:
        ``relative_error`` (norm of the difference over norm), and the peak memory of every process in GB.
    """
    peaks = {}
    common = ["--scale", scale.name, "--px", str(px), "--seed", str(seed)]
    for name in LOOP:
        exported = run_measured(
            "instantrt_bench.full_size.worker", [str(out), name, *common, "--precision", "fp32", "--fixed"]
        )
        peaks[f"export_{name}"] = exported.peak_bytes
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for side in ("torch", "onnx"):
            path = Path(folder) / f"{side}.npz"
            arguments = ["--out", str(out), *common, "--side", side, "--result", str(path)]
            peaks[side] = run_measured("instantrt_bench.full_size.numbers", arguments).peak_bytes
            with np.load(path) as arrays:
                results[side] = dict(arrays)
    errors = {name: compare(results["onnx"][name], results["torch"][name]).relative_error for name in OUTPUTS}
    return {
        "scale": scale.name,
        "picture_px": px,
        "relative_error": max(errors.values()),
        "norm": float(np.linalg.norm(results["torch"]["next_latents"])),
        **{f"peak_gb_{name}": round(peak / 1e9, 2) for name, peak in peaks.items()},
    }


def one_side(side: str, scale: Scale, out: Path, px: int, seed: int, result: Path) -> None:
    """One step of identitynet and unet, its outputs written to ``result``."""
    checkpoint = random_checkpoint(scale, out / "files", seed)
    with torch.random.fork_rng(devices=[]):
        outputs = one_step(checkpoint.dims, _runner(side, checkpoint, out / "bundle/onnx"), px, seed)
    np.savez(result, **outputs)  # type: ignore[arg-type]


def one_step(dims: ModelDims, run: Run, px: int, seed: int) -> dict[str, Array]:
    """Seeded inputs through identitynet, its residuals through unet; one slot, guided."""
    contracts = network_contracts(dims)
    symbols = {"B": 1, "G": 2, "H": px, "W": px}
    rng = np.random.default_rng(seed)
    inputs = {name: random_inputs(contracts[name], symbols, "fp32", rng) for name in LOOP}
    shared = {name: value for name, value in inputs["identitynet"].items() if loop_buffer("identitynet", name) == name}
    residuals = run("identitynet", inputs["identitynet"])
    gc.collect()
    known = inputs["unet"] | {name: value for name, value in shared.items() if name in inputs["unet"]} | residuals
    return run("unet", known)


def _runner(side: str, checkpoint: Checkpoint, folder: Path) -> Run:
    contracts = network_contracts(checkpoint.dims)

    def run_torch(name: str, inputs: dict[str, Array]) -> dict[str, Array]:
        return torch_outputs(build_network(name, checkpoint, torch.float32), contracts[name], inputs)

    def run_onnx(name: str, inputs: dict[str, Array]) -> dict[str, Array]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_prepacking", "1")  # a second copy of the weights
        session = onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
        names = [spec.name for spec in contracts[name].outputs]
        return dict(zip(names, session.run(names, inputs), strict=True))

    return {"torch": run_torch, "onnx": run_onnx}[side]


if __name__ == "__main__":
    raise SystemExit(main())
