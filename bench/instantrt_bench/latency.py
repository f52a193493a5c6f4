"""End-to-end latency of the runtime beside the reference's: photo bytes in, uint8 pictures out, runs alternating."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from instantrt import GenerateRequest, InstantID
from instantrt_bench.fidelity import Comparison, compare, reference_inputs
from instantrt_bench.machine import MAX_FOREIGN_CPUS, CpuTimes
from instantrt_bench.reference import Reference


@dataclass(frozen=True)
class Run:
    """One timed request."""

    latency_ms: float
    stages_ms: dict[str, float]
    overhead_us_per_step: float  # median over the network calls, outside the networks


@dataclass(frozen=True)
class Runs:
    """All timed requests of one pipeline."""

    runs: tuple[Run, ...]

    @property
    def latency_ms(self) -> float:
        """The median."""
        return median(run.latency_ms for run in self.runs)

    @property
    def stages_ms(self) -> dict[str, float]:
        """The median of each stage."""
        return {name: median(run.stages_ms[name] for run in self.runs) for name in self.runs[0].stages_ms}

    @property
    def overhead_us_per_step(self) -> float:
        """The median over runs of the median over network calls."""
        return median(run.overhead_us_per_step for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """Medians and raw samples."""
        return {
            "latency_ms": round(self.latency_ms, 3),
            "latency_ms_samples": [round(run.latency_ms, 3) for run in self.runs],
            "stages_ms": {name: round(ms, 3) for name, ms in self.stages_ms.items()},
            "host_overhead_us_per_step": round(self.overhead_us_per_step, 1),
            "host_overhead_us_per_step_samples": [round(run.overhead_us_per_step, 1) for run in self.runs],
        }


@dataclass(frozen=True)
class Race:
    """Both pipelines' runs, and how far apart their pictures of one and the same request are."""

    runtime: Runs
    reference: Runs
    comparison: Comparison
    foreign_cpus: float | None  # CPUs that other processes kept busy meanwhile, on average; None if unknown

    @property
    def quiet(self) -> bool:
        """Whether this process had the machine to itself. If not, the times say little: threads that wait for each
        other suffer far more than their share, and the reference's more than the runtime's."""
        return self.foreign_cpus is None or self.foreign_cpus <= MAX_FOREIGN_CPUS

    @property
    def ratio(self) -> float:
        """Median latency of the reference over that of the runtime."""
        return self.reference.latency_ms / self.runtime.latency_ms


def race(runtime: InstantID, reference: Reference, request: Callable[[int], GenerateRequest], runs: int) -> Race:
    """Compare one request's pictures, which also warms up, then time ``runs`` requests of each pipeline.

    Who goes first alternates, so that drift hits both alike.

    Args:
        runtime: brings the face stage for both.
        reference: the other pipeline.
        request: the request of a number. Equal work for every number, but neither a photo nor a prompt comes twice, so
            that nothing remembered from an earlier request helps. Photos are bytes: decoding them is in both times.
        runs: timed runs of each.
    """
    comparison = compare(runtime, reference, request(0))
    start = CpuTimes.now()
    times: dict[str, list[Run]] = {"runtime": [], "reference": []}
    for index in range(runs):
        for side in ("runtime", "reference") if index % 2 == 0 else ("reference", "runtime"):
            asked = request(2 * index + (1 if side == "runtime" else 2))
            times[side].append(
                _timed_runtime(runtime, asked) if side == "runtime" else _timed_reference(runtime, reference, asked)
            )
    foreign_cpus = start.foreign_cpus_since() if start else None
    return Race(Runs(tuple(times["runtime"])), Runs(tuple(times["reference"])), comparison, foreign_cpus)


def varied(prompt: str, variant: int) -> str:
    """Another prompt for every variant but 0; the encoders pad all to the same length, so the work is the same."""
    return f"{prompt}, take {variant}" if variant else prompt


def stage_table(race: Race) -> str:
    """The medians as text: latency, host overhead, then every stage of either pipeline."""
    rows = [
        ("", "runtime", "reference", "ratio"),
        _row("end to end", race.runtime.latency_ms, race.reference.latency_ms, "ms"),
        _row("host overhead a step", race.runtime.overhead_us_per_step, race.reference.overhead_us_per_step, "us"),
    ]
    sides: Sequence[tuple[str, Runs]] = (("runtime", race.runtime), ("reference", race.reference))
    for side, runs in sides:
        for stage, ms in runs.stages_ms.items():
            cells = (f"{ms:.1f} ms", "") if side == "runtime" else ("", f"{ms:.1f} ms")
            rows.append((f"  {side}: {stage}", *cells, ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    if not race.quiet:
        lines.append(f"Other processes kept {race.foreign_cpus:.1f} CPUs busy meanwhile: these times say little.")
    return "\n".join(lines)


def _row(label: str, ours: float, theirs: float, unit: str) -> tuple[str, str, str, str]:
    return (label, f"{ours:.1f} {unit}", f"{theirs:.1f} {unit}", f"{theirs / ours:.2f}x")


def _timed_runtime(runtime: InstantID, request: GenerateRequest) -> Run:
    start = time.perf_counter()
    timings = runtime.run(request).timings
    latency_ms = (time.perf_counter() - start) * 1e3
    return Run(latency_ms, dict(timings.stages_ms), timings.overhead_us_per_step)


def _timed_reference(runtime: InstantID, reference: Reference, request: GenerateRequest) -> Run:
    """The reference brings no face stage of its own: both use the runtime's, in this process."""
    start = time.perf_counter()
    prepared = runtime.prepare(request)
    face_ms = (time.perf_counter() - start) * 1e3
    result = reference.generate(reference_inputs(prepared))
    latency_ms = (time.perf_counter() - start) * 1e3
    return Run(latency_ms, {"decode and face": face_ms, **result.timings_ms}, result.overhead_us_per_step)
