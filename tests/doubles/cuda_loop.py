"""`make cuda-loop`: what the CUDA path does in one step of the loop, counted in the stand-in driver's log.

Writes loop.json. The counts are those of a GPU, since they are of calls that the runtime makes. The only times here are
the host's: with executions that cost nothing, and the diffusers loop's on this machine's CPU beside them. No time of a
GPU can come out of this.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from doubles.cuda_double import CudaDouble, Entry, build, environment

SIZE = 64  # pixels; small, because the counts do not depend on it
STEPS = 30
TIMED_RUNS = 20
TIMED_STEPS = 100
WAITS = re.compile(r"Synchronize$")
ALLOCATIONS = re.compile(r"^cuMem(Alloc|Free|Create|Map|Host)|Create|Instantiate|BeginCapture")
COPIES = re.compile(r"^cuMemcpy|^cuMemset")
CASES = [
    {"steps": 4, "guidance_scale": 1.0, "samples": 4, "sampler": "ddim"},
    {"steps": 10, "guidance_scale": 5.0, "samples": 1, "sampler": "dpmpp_2m_sde_karras", "enhance_face_region": False},
    {"steps": 100, "guidance_scale": 5.0, "samples": 1, "sampler": "euler"},
]


def main() -> None:
    """Prepare, then measure in a process below the stand-in driver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="the nano bundle, fp32")
    parser.add_argument("checkpoint", type=Path, help="the nano checkpoint")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--below-the-stand-in", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.below_the_stand_in:
        print(json.dumps(measure(args.bundle)))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    library, bundle = build(args.out / "build"), with_plans(args.bundle, args.out / "bundle")
    command = [sys.executable, "-m", "doubles.cuda_loop", bundle, args.checkpoint, "--out", args.out]
    done = subprocess.run(
        [*command, "--below-the-stand-in"], env=environment(library), stdout=subprocess.PIPE, text=True, check=True
    )
    report = json.loads(done.stdout) | {"diffusers_host_us_per_call": diffusers_host_us(args.bundle, args.checkpoint)}
    (args.out / "loop.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    for name, value in report.items():
        print(f"{name:<30} {value}")


def with_plans(bundle: Path, out: Path) -> Path:
    """A copy of the bundle with plans for small pictures; plans that are still valid are not built again."""
    from instantrt.cli import main as instantrt

    shutil.copytree(bundle, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("plans"))
    command = ["build", str(out), "--target", "tensorrt-rtx", "--slots", "1:1:4", "--sizes", f"{SIZE}x{SIZE}"]
    if instantrt(command):
        raise SystemExit("the plans could not be built")
    return out


def measure(folder: Path) -> dict[str, Any]:
    """Counts of one loop, the host's time per call, and the largest error against the CPU path."""
    # The libraries' wheel must be imported before the bindings, see instantrt.engine.flavours.
    import onnxruntime_ep_nv_tensorrt_rtx  # noqa: F401
    import tensorrt_rtx_bindings

    from doubles.tensorrt_double import TensorRTDouble
    from instantrt import InstantID
    from instantrt.bundle import Bundle

    cuda = CudaDouble.loaded()
    if cuda is None:
        raise SystemExit("this process does not run on the stand-in driver")
    double = TensorRTDouble(tensorrt_rtx_bindings, cuda)
    double.know(Bundle.open(folder), "tensorrt-rtx")
    sys.modules["tensorrt_rtx_bindings"] = double.module
    kernels = Path(tempfile.mkdtemp())
    with (
        InstantID.load(folder, target="tensorrt-rtx", runtime_cache=kernels) as pipeline,
        InstantID.load(folder, threads=1) as on_cpu,
    ):
        error = max(relative_error(pipeline, on_cpu, case) for case in CASES)
        cuda.clear_log()
        pipeline.run(request(steps=STEPS))
        counts = loop_counts(cuda.log())
    double.no_ops = frozenset({"identitynet", "unet"})
    cuda.keep_log(False)
    with InstantID.load(folder, target="tensorrt-rtx", runtime_cache=kernels) as pipeline:
        runs = [pipeline.run(request(steps=TIMED_STEPS)).timings for _ in range(TIMED_RUNS)]
    shutil.rmtree(kernels)
    if double.violations:
        raise SystemExit(f"rules were broken: {double.violations}")
    return {
        **counts,
        "host_us_per_call": round(median(t.overhead_us_per_call for t in runs), 1),
        "host_us_per_call_runs": [round(t.overhead_us_per_call, 1) for t in runs],
        "max_relative_error": error,
        "stand_in": "counts and host times on the stand-in driver; no GPU ran",
    }


def request(**fields: Any) -> Any:
    """A request for the portrait that the demo uses."""
    from skimage.data import astronaut

    from instantrt import GenerateRequest

    return GenerateRequest(
        face=astronaut(), prompt="portrait photo of a person", width=SIZE, height=SIZE, seed=1, **fields
    )


def relative_error(pipeline: Any, on_cpu: Any, case: dict[str, Any]) -> float:
    """Of the latents of one request."""
    found, expected = (p.run(request(**case)).latents for p in (pipeline, on_cpu))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def loop_counts(log: list[Entry]) -> dict[str, Any]:
    """What happened from the first graph launch to the last one, and inside the graph, per network call."""
    names = [entry.name for entry in log if entry.type == "call"]
    launches = [index for index, name in enumerate(names) if name == "cuGraphLaunch"]
    in_loop = names[launches[0] : launches[-1] + 1]
    inside = [entry.name for entry in log if entry.type == "run" and entry.members.get("graph")]
    calls = len(launches)
    per_call = [inside[i * len(inside) // calls : (i + 1) * len(inside) // calls] for i in range(calls)]
    executions = [[i for i, name in enumerate(call) if name == "host function"] for call in per_call]
    return {
        "calls": calls,
        "graph_launches_per_call": in_loop.count("cuGraphLaunch") / calls,
        "synchronisations_in_loop": sum(bool(WAITS.search(name)) for name in in_loop),
        "host_copies_in_loop": sum(bool(COPIES.search(name)) for name in in_loop)
        + sum(name in ("copy HtoD", "copy DtoH") for name in inside),
        "allocations_in_loop": sum(bool(ALLOCATIONS.search(name)) for name in in_loop),
        "engine_calls_per_call": sum(map(len, executions)) / calls,
        "device_copies_per_call": sum(call.count("copy DtoD") for call in per_call) / calls,
        "copies_between_engines": sum(
            "copy" in name
            for call, places in zip(per_call, executions, strict=True)
            for name in call[places[0] : places[-1]]
        ),
        "driver_calls_in_loop": dict(Counter(in_loop)),
    }


def diffusers_host_us(bundle: Path, checkpoint: Path) -> float:
    """Median time that diffusers' loop spends per call outside UNet and IdentityNet, on the CPU of this machine."""
    from instantrt import InstantID
    from instantrt_bench.fidelity.pair import reference_inputs
    from instantrt_bench.reference.pipeline import Reference
    from instantrt_export.checkpoint import Checkpoint

    with InstantID.load(bundle) as pipeline:
        inputs = reference_inputs(pipeline.prepare(request(steps=STEPS)))
    return round(Reference.load(Checkpoint.open(checkpoint), threads=1).generate(inputs).overhead_us_per_call, 1)


if __name__ == "__main__":
    main()
