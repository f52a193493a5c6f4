"""From a measured scenario to what a result file says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from instantrt_bench.gpu import gpu_flags
from instantrt_bench.machine import MAX_FOREIGN_CPUS
from instantrt_bench.measure import Measurement, Track
from instantrt_bench.results import REFERENCE_EAGER, TARGET_OF, ResultFile, ScenarioResult, SystemResult
from instantrt_bench.roofline import Peak, Roofline
from instantrt_bench.statistics import Interval, median_interval, paired_ratio, ratio_of_medians, summarise
from instantrt_engines.cost import Cost

Costs = Mapping[str, Cost]
STAGE_OF_COST = {"finale": "vae"}  # the loop's times are per call and kept apart


def scenario_result(found: Measurement, costs: Costs | None = None, peak: Peak | None = None) -> ScenarioResult:
    """The result of one scenario.

    Args:
        found: what was measured.
        costs: of the runtime's stages, for the roofline.
        peak: of the machine; None if it is not known.
    """
    systems = {name: _system_result(track, found, costs, peak) for name, track in found.tracks.items()}
    return ScenarioResult(found.scenario.id, found.scenario.to_json(), systems, _comparison(found))


def latency_summary(results: ResultFile) -> dict[str, Any]:
    """The figures over all scenarios: each ratio to the eager reference, the first scenario's apart."""
    ratios = {
        scenario.id: scenario.comparison["ratios"]
        for scenario in results.scenarios
        if scenario.comparison.get("ratios")
    }
    summary: dict[str, Any] = {
        "scenarios": len(results.scenarios),
        "failed": [
            f"{scenario.id}: {name}: {system.error}"
            for scenario in results.scenarios
            for name, system in scenario.systems.items()
            if system.status == "failed"
        ],
        "flags": sorted({flag for scenario in results.scenarios for flag in scenario.comparison.get("flags", ())}),
    }
    names = dict.fromkeys(name for by_system in ratios.values() for name in by_system)
    summary["ratio_eager"] = {
        name: {
            "scenario": next(i for i, by_system in ratios.items() if name in by_system),
            **next(by_system[name] for by_system in ratios.values() if name in by_system),
            "geometric_mean": _geometric_mean([r[name]["estimate"] for r in ratios.values() if name in r]),
        }
        for name in names
    }
    return summary


def ratio_to_reference(reference_ms: list[float], system_ms: list[float]) -> Interval:
    """Median latency of the reference over the system's; by rounds if both answered in all of them."""
    ratio = paired_ratio if len(reference_ms) == len(system_ms) else ratio_of_medians
    return ratio(reference_ms, system_ms)


def _system_result(track: Track, found: Measurement, costs: Costs | None, peak: Peak | None) -> SystemResult:
    samples = track.samples
    stages = list(samples[0].stages_ms) if samples else []
    raw: dict[str, Any] = {
        "latency_ms": _rounded(track.latencies_ms),
        "stages_ms": {stage: _rounded([s.stages_ms.get(stage, 0.0) for s in samples]) for stage in stages},
        "step_ms": _rounded([s.step_ms for s in samples]),
        "host_overhead_us_per_step": _rounded([s.overhead_us_per_step for s in samples], 2),
        "warm_up_ms": _rounded(track.warm_up_ms),
        "psnr_db": _rounded(track.psnr_db, 2),
        "peak_host_bytes": track.peak_host_bytes,
        "peak_device_bytes": track.peak_device_bytes,
        "energy_mj": track.energy_mj,
    }
    summary = _summary(track, raw, found) if samples else {}
    if samples and costs is not None and track.name in TARGET_OF:
        summary["roofline"] = _roofline(summary, costs, peak)
    return SystemResult(track.status, track.error, raw, summary)


def _summary(track: Track, raw: Mapping[str, Any], found: Measurement) -> dict[str, Any]:
    latency = summarise(raw["latency_ms"])
    cold = track.cold_start
    return {
        "latency_ms": {**latency, "median_interval": median_interval(raw["latency_ms"]).to_json()},
        "pictures_per_s": found.scenario.samples * 1e3 / latency["mean"],
        "stages_ms": {stage: summarise(values) for stage, values in raw["stages_ms"].items()},
        "step_ms": summarise(raw["step_ms"]),
        "host_overhead_us_per_step": summarise(raw["host_overhead_us_per_step"]),
        "cold_start_ms": None if cold is None else {**asdict(cold), "total_ms": cold.total_ms},
        "worst_psnr_db": min(track.psnr_db, default=None),
        "peak_host_bytes": max(track.peak_host_bytes, default=None),
        "peak_device_bytes": max(track.peak_device_bytes, default=None),
        "energy_mj_per_request": float(np.mean(track.energy_mj)) if track.energy_mj else None,
    }


def _roofline(summary: Mapping[str, Any], costs: Costs, peak: Peak | None) -> dict[str, Any]:
    times = {"loop": summary["step_ms"]["p50"]}
    for part, stage in STAGE_OF_COST.items():
        if stage in summary["stages_ms"]:
            times[part] = summary["stages_ms"][stage]["p50"]
    return {part: Roofline.of(costs[part], ms, peak).to_json() for part, ms in times.items()}


def _comparison(found: Measurement) -> dict[str, Any]:
    reference = found.tracks.get(REFERENCE_EAGER)
    others = [t for t in found.tracks.values() if t is not reference and t.samples]
    ratios = {}
    if reference is not None and reference.samples:
        ratios = {t.name: ratio_to_reference(reference.latencies_ms, t.latencies_ms).to_json() for t in others}
    foreign = found.foreign_cpus
    flags = gpu_flags(found.readings, found.pids)
    if foreign is not None and foreign > MAX_FOREIGN_CPUS:
        flags.append("other processes kept the CPU busy")
    if found.stopped in ("ceiling", "time"):
        flags.append("the noise goal was not reached")
    return {
        "baseline": REFERENCE_EAGER if ratios else None,
        "ratios": ratios,
        "judge": found.judge,
        "stopped": found.stopped,
        "foreign_cpus": None if foreign is None else round(foreign, 3),
        "flags": flags,
    }


def _rounded(values: list[float], digits: int = 4) -> list[float]:
    return [round(value, digits) for value in values]


def _geometric_mean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))
