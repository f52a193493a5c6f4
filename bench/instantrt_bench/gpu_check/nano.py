"""Section ``nano``: the nano checkpoint end to end on every target that can run here, against ONNX Runtime on the CPU.

Torch modules stand for plans where there are none: eager and captured, fp32 and fp16, many steps through one graph,
evicted shapes, and calls that nobody waits for.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from instantrt import GenerateRequest, GenerateResult, InstantID
from instantrt.bundle import Bundle
from instantrt.contracts import Precision
from instantrt.denoise import IN_FLIGHT, MAX_LOOPS, DenoiseLoop, LoopShape, SlotInputs
from instantrt.engine import ONNXRUNTIME_CUDA, Target
from instantrt.engine.flavours import FLAVOURS
from instantrt.errors import InstantRTError
from instantrt_bench.cases.portrait import portrait_jpeg
from instantrt_bench.gpu_check.conditions import random_slot
from instantrt_bench.gpu_check.measure import median, relative_error, spread
from instantrt_bench.gpu_check.options import Options
from instantrt_bench.gpu_check.report import Report, SkippedError
from instantrt_bench.gpu_check.torch_target import (
    CpuPlace,
    CudaPlace,
    ModuleOf,
    Place,
    TorchTarget,
    checkpoint_modules,
)
from instantrt_export.checkpoint import Checkpoint
from instantrt_nano.maker import TRAINED

PX, SEED = 64, 20261126

# Relative errors of latents after all steps. Eager and captured run the same kernels; other kernels add up in another
# order; fp16 has a unit roundoff of 5e-4, once per operation.
SAME_LIMIT, FP32_LIMIT, FP16_LIMIT = 1e-6, 1e-3, 5e-2
CALLS, LONG = 100, 150  # of the loop alone: timed, and twice without a wait
FEW_CALLS, NOT_LONG = 6, 9  # in a dry run
DTYPES: tuple[tuple[Precision, torch.dtype], ...] = (("fp32", torch.float32), ("fp16", torch.float16))


PIPELINES: tuple[tuple[str, Precision, bool, str, float], ...] = (  # name, precision, eager, held against, limit
    ("torch, eager, fp32", "fp32", True, "cpu", FP32_LIMIT),
    ("torch, captured, fp32", "fp32", False, "torch, eager, fp32", SAME_LIMIT),
    ("torch, captured, fp16", "fp16", False, "cpu", FP16_LIMIT),
)


@dataclass(frozen=True)
class Case:
    """One request."""

    steps: int
    guidance_scale: float
    samples: int
    sampler: str
    width: int = PX

    @property
    def shape(self) -> tuple[int, bool, int]:
        """What a captured graph is fixed to."""
        return self.samples, self.guidance_scale > 1, self.width

    def request(self) -> GenerateRequest:
        """The same seed, so the same noise, for every pipeline."""
        return GenerateRequest(
            portrait_jpeg(),
            "portrait photo of a person",
            samples=self.samples,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            sampler=self.sampler,
            width=self.width,
            height=PX,
            seed=SEED,
        )


CASES = (
    Case(4, 5.0, 1, "euler"),
    Case(100, 5.0, 1, "heun"),
    Case(30, 5.0, 4, "dpmpp_2m_sde_karras"),
    Case(10, 1.0, 4, "euler_ancestral"),
    Case(30, 1.0, 1, "ddim", width=128),
)
FEW_CASES = (CASES[0], Case(4, 1.0, 2, "ddim"))
EVICTING = tuple(Case(4, guidance, samples, "euler") for samples in (2, 3, 4) for guidance in (1.0, 5.0))[:MAX_LOOPS]
Results = dict[Case, GenerateResult]


def run(report: Report, options: Options) -> None:
    """Each pipeline in turn, on the same requests."""
    cases = FEW_CASES if options.dry_run else CASES
    checkpoint = Checkpoint.open(str(TRAINED))
    found: dict[str, Results] = {}
    with report.step("ONNX Runtime on the CPU"):
        bundle = Bundle.open(options.nano_bundle())
        with InstantID.load(bundle.folder) as pipeline:
            found["cpu"] = _run(pipeline, cases)
    if "cpu" not in found:
        return
    modules = {name: cache(checkpoint_modules(checkpoint, dtype, options.torch_device)) for name, dtype in DTYPES}
    for name, precision, eager, other, limit in PIPELINES:
        with report.step(name), ExitStack() as opened:
            if options.dry_run and precision == "fp16":
                raise SkippedError("takes minutes on a CPU")
            making = _torch_pipeline(options, bundle, modules[precision], precision, eager=eager)
            pipeline = opened.enter_context(making)
            found[name] = _run(pipeline, cases)
            _compare(report, name, found[name], found[other], limit)
            if not eager and precision == "fp32":
                _one_graph_per_shape(report, pipeline, cases)
                _evict(report, pipeline, found[name], cases[0])
    for target in (ONNXRUNTIME_CUDA, *FLAVOURS):
        with report.step(target):
            if options.dry_run:
                raise SkippedError("a dry run")
            _target(report, options, bundle, target, found["cpu"])
    with report.step("the loop alone"):
        for eager in (True, False):
            _loop_alone(report, options, checkpoint, bundle, modules[options.precision], eager=eager)


def place_of(options: Options) -> Place:
    """Where torch computes in this run."""
    return CpuPlace() if options.dry_run else CudaPlace()


def without_waiting(report: Report, options: Options, loop: DenoiseLoop) -> None:
    """Twice 150 calls of a loaded loop with nothing waited for in between: more than its tables have rows."""
    calls = NOT_LONG if options.dry_run else LONG
    start = perf_counter()
    runs = [loop.launch(calls, in_flight=calls) for _ in range(2)]
    launched_s = perf_counter() - start
    runs[-1].finish()
    report.add(
        launch_us_without_waiting=launched_s / (2 * calls) * 1e6,
        us_per_call_without_waiting=(perf_counter() - start) / (2 * calls) * 1e6,
    )
    report.check("latents not finite without waiting", int(np.count_nonzero(~np.isfinite(loop.latents()))), 0)


@contextmanager
def nano_loop(
    options: Options, checkpoint: Checkpoint, bundle: Bundle, module_of: ModuleOf, *, eager: bool
) -> Iterator[DenoiseLoop]:
    """The loop of nano, one slot, guided, with random inputs loaded."""
    target = TorchTarget(place_of(options), bundle.contracts, module_of)
    with (
        closing(target),
        closing(DenoiseLoop(target, checkpoint.dims, options.precision, LoopShape(1, 2, PX, PX), eager=eager)) as loop,
    ):
        loop.load_slot(0, _slot(checkpoint))
        yield loop


def _slot(checkpoint: Checkpoint) -> SlotInputs:
    return random_slot(checkpoint.dims, checkpoint.scheduler_config, PX, CALLS, SEED)


def _run(pipeline: InstantID, cases: tuple[Case, ...]) -> Results:
    return {case: pipeline.run(case.request()) for case in cases}


def _compare(report: Report, name: str, mine: Results, theirs: Results, limit: float) -> None:
    errors = [relative_error(mine[case].latents, theirs[case].latents) for case in mine]
    report.check(f"{name}: error of latents", float(np.max(errors)), limit)  # max() would hide a NaN


@contextmanager
def _torch_pipeline(
    options: Options, bundle: Bundle, module_of: ModuleOf, precision: Precision, *, eager: bool
) -> Iterator[InstantID]:
    bundle = Bundle(bundle.folder, replace(bundle.manifest, precision=precision))
    target: Target = TorchTarget(place_of(options), bundle.contracts, module_of, bundle.onnx)
    try:
        with InstantID(bundle, target, eager=eager) as pipeline:
            yield pipeline
    finally:
        gc.collect()  # memory that went during a capture of the next pipeline would break it


def _one_graph_per_shape(report: Report, pipeline: InstantID, cases: tuple[Case, ...]) -> None:
    """Steps, sampler, guidance and strengths are data: only another shape makes another loop."""
    loads = _torch_target(pipeline).loads["unet"]
    report.check("graphs beyond one for each shape", loads - len({case.shape for case in cases}), 0)


def _evict(report: Report, pipeline: InstantID, found: Results, case: Case) -> None:
    """As many other shapes as are kept push the first one out; captured anew it gives the same latents."""
    for other in EVICTING:
        pipeline.run(other.request())
    before = _torch_target(pipeline).loads["unet"]
    again = pipeline.run(case.request())
    report.check("the evicted loop was not loaded again", 1 - (_torch_target(pipeline).loads["unet"] - before), 0)
    error = relative_error(again.latents, found[case].latents)
    report.check("error of the loop captured again", error, SAME_LIMIT)


def _torch_target(pipeline: InstantID) -> TorchTarget:
    target = pipeline._target
    if not isinstance(target, TorchTarget):
        raise TypeError(f"expected the torch target, got {target.name}")
    return target


def _target(report: Report, options: Options, bundle: Bundle, target: str, expected: Results) -> None:
    """A target that users have: its plans built in a copy of the bundle, then the same requests."""
    from instantrt_engines.arguments import BuildCommandOptions
    from instantrt_engines.run_build import run_build

    folder = Path(shutil.copytree(bundle.folder, options.scratch / target))
    build = BuildCommandOptions(folder, target)
    if target in FLAVOURS:
        build = replace(build, slots=(1, 1, 4), sizes=((PX, PX), (128, PX)))
    try:
        run_build(build)
        with InstantID.load(folder, target=target) as pipeline:
            found = _run(pipeline, tuple(expected))
    except InstantRTError as error:
        raise SkippedError(str(error)) from error
    _compare(report, target, found, expected, FP32_LIMIT * 5)  # kernels of another library
    timings = next(iter(found.values())).timings
    report.add(
        **{f"{target} ms_per_call": median(timings.call_ms), f"{target} host_us_per_call": timings.overhead_us_per_call}
    )


def _loop_alone(
    report: Report, options: Options, checkpoint: Checkpoint, bundle: Bundle, module_of: ModuleOf, *, eager: bool
) -> None:
    with nano_loop(options, checkpoint, bundle, module_of, eager=eager) as loop:
        calls = FEW_CALLS if options.dry_run else CALLS
        loop.run(calls)
        loop.load_slot(0, _slot(checkpoint))
        times = loop.run(calls)
        name = "eager" if eager else "captured"
        report.add(
            **{
                f"{name} ms_per_call": spread(times.call_ms),
                f"{name} host_us_per_call": median(times.overhead_us),
            }
        )
        if not eager:
            done: list[int] = []
            run = loop.launch(calls, lambda done_calls, _total: done.append(done_calls))
            report.check("calls in flight when launch returns", calls - len(done), IN_FLIGHT)
            run.finish()
            without_waiting(report, options, loop)
