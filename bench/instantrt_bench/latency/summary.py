"""From measured scenarios to what a result file says of them; several sessions add up in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from instantrt_bench.latency.gpu import gpu_flags
from instantrt_bench.latency.measure import Measurement, Track
from instantrt_bench.latency.roofline import Bounds, Roofline
from instantrt_bench.results.files import ResultFile, ScenarioResult, SystemResult
from instantrt_bench.results.growth import growth_of
from instantrt_bench.results.machine import MAX_FOREIGN_CPUS
from instantrt_bench.results.statistics import Interval, median_interval, paired_ratio, ratio_of_medians, summarise
from instantrt_bench.results.systems import REFERENCE_EAGER

TIMED = ("latency_ms", "cpu_ms", "call_ms", "host_overhead_us_per_call")
BUSY_CPU = "other processes kept the CPU busy"
NOISY = "the noise goal was not reached"


def scenario_result(
    measurement: Measurement, before: ScenarioResult | None = None, bounds: Mapping[str, Bounds] | None = None
) -> ScenarioResult:
    """The result of one scenario.

    Args:
        measurement: what was measured.
        before: earlier sessions, to whose samples these are added.
        bounds: by system, for its roofline.
    """
    samples = measurement.scenario.samples
    systems = {name: _system_result(track, before, samples) for name, track in measurement.tracks.items()}
    for name, system in systems.items():
        if system.summary and bounds is not None:
            system.summary["roofline"] = _roofline(system.summary, bounds[name])
    earlier = [] if before is None else before.comparison["sessions"]
    sessions = [*earlier, _session(measurement)]
    return ScenarioResult(
        measurement.scenario.id, measurement.scenario.to_json(), systems, _comparison(systems, sessions)
    )


def latency_summary(results: ResultFile) -> dict[str, Any]:
    """Over all scenarios: what failed, what makes times doubtful, and every ratio to the eager reference: that of the
    first scenario, and the geometric mean of all; and how latency grows with the work."""
    scenarios = results.scenarios
    ratios = {s.id: s.comparison["ratios"] for s in scenarios if s.comparison["ratios"]}
    names = dict.fromkeys(name for by_system in ratios.values() for name in by_system)
    return {
        "scenarios": len(scenarios),
        "failed": [
            f"{scenario.id}: {name}: {system.error}"
            for scenario in scenarios
            for name, system in scenario.systems.items()
            if system.status == "failed"
        ],
        "flags": sorted({flag for scenario in scenarios for flag in scenario.comparison["flags"]}),
        "ratio_eager": {name: _ratio_summary(name, ratios) for name in names},
        "growth": [growth.to_json() for growth in growth_of(results)],
    }


def ratio_to_reference(reference_ms: Sequence[float], system_ms: Sequence[float]) -> Interval:
    """Median latency of the reference over the system's; by rounds if both answered in all of them."""
    ratio = paired_ratio if len(reference_ms) == len(system_ms) else ratio_of_medians
    return ratio(reference_ms, system_ms)


def raw_samples(track: Track, session: int) -> dict[str, Any]:
    """All that a session measured of a system, as plain data."""
    samples = track.samples
    stages = list(samples[0].stages_ms) if samples else []
    return {
        "session": [session] * len(samples),
        "latency_ms": _rounded([s.latency_ms for s in samples]),
        "cpu_ms": _rounded([s.cpu_ms for s in samples]),
        "stages_ms": {stage: _rounded([s.stages_ms.get(stage, 0.0) for s in samples]) for stage in stages},
        "call_ms": _rounded([s.call_ms for s in samples]),
        "host_overhead_us_per_call": _rounded([s.overhead_us_per_call for s in samples]),
        "warm_up_ms": _rounded(track.warm_up_ms),
        "cold_start_ms": [] if track.cold_start is None else [track.cold_start.to_json()],
        "psnr_db": _rounded(track.psnr_db),
        "ssim": [round(value, 6) for value in track.ssim],
        "peak_host_bytes": track.peak_host_bytes,
        "peak_device_bytes": track.peak_device_bytes,
        "energy_mj": track.energy_mj,
    }


def joined(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Samples of two sessions, one after the other. A stage that one of them lacks took 0 ms there."""
    lists = {name: [*before[name], *after[name]] for name in after if name != "stages_ms"}
    counts = [len(side["latency_ms"]) for side in (before, after)]
    stages = {
        stage: [
            *before["stages_ms"].get(stage, [0.0] * counts[0]),
            *after["stages_ms"].get(stage, [0.0] * counts[1]),
        ]
        for stage in {**before["stages_ms"], **after["stages_ms"]}
    }
    return {**lists, "stages_ms": stages}


def _system_result(track: Track, before: ScenarioResult | None, pictures: int) -> SystemResult:
    earlier = None if before is None else before.systems.get(track.name)
    session = 0 if before is None else len(before.comparison["sessions"])
    raw = raw_samples(track, session)
    if earlier is not None and earlier.samples:
        raw = joined(earlier.samples, raw)
    result = SystemResult(track.status, track.error, raw, _summary(raw, pictures) if raw["latency_ms"] else {})
    if earlier is not None and earlier.status == "failed":  # a later success does not undo it
        return replace(result, status="failed", error=earlier.error)
    return result


def _summary(raw: Mapping[str, Any], pictures: int) -> dict[str, Any]:
    latency = summarise(raw["latency_ms"])
    return {
        **{name: summarise(raw[name]) for name in TIMED},
        "latency_ms": {**latency, "median_interval": median_interval(raw["latency_ms"]).to_json()},
        "pictures_per_s": pictures * 1e3 / latency["mean"],
        "stages_ms": {stage: summarise(values) for stage, values in raw["stages_ms"].items()},
        "cold_start_ms": raw["cold_start_ms"][0] if raw["cold_start_ms"] else None,
        "worst_psnr_db": min(raw["psnr_db"], default=None),
        "worst_ssim": min(raw["ssim"], default=None),
        "peak_host_bytes": max(raw["peak_host_bytes"], default=None),
        "peak_device_bytes": max(raw["peak_device_bytes"], default=None),
        "energy_mj_per_request": float(np.mean(raw["energy_mj"])) if raw["energy_mj"] else None,
    }


def _roofline(summary: Mapping[str, Any], bounds: Bounds) -> dict[str, Any]:
    times = {"denoise": summary["call_ms"]["p50"]}
    if "decode" in summary["stages_ms"]:
        times["decode"] = summary["stages_ms"]["decode"]["p50"]
    return {part: Roofline.of(bounds.costs[part], ms, bounds.peak).to_json() for part, ms in times.items()}


def _session(measurement: Measurement) -> dict[str, Any]:
    foreign, flags = measurement.foreign_cpus, gpu_flags(measurement.readings, measurement.pids)
    if foreign is not None and foreign > MAX_FOREIGN_CPUS:
        flags.append(BUSY_CPU)
    if measurement.stopped in ("ceiling", "time"):
        flags.append(NOISY)
    return {
        "started": measurement.started,
        "judge": measurement.judge,
        "stopped": measurement.stopped,
        "foreign_cpus": None if foreign is None else round(foreign, 3),
        "flags": flags,
    }


def _comparison(systems: Mapping[str, SystemResult], sessions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    times = {name: system.samples["latency_ms"] for name, system in systems.items()}
    reference_ms = times.pop(REFERENCE_EAGER, [])
    ratios = {name: ratio_to_reference(reference_ms, ms).to_json() for name, ms in times.items() if reference_ms and ms}
    return {
        "baseline": REFERENCE_EAGER if ratios else None,
        "ratios": ratios,
        "foreign_cpus": max((s["foreign_cpus"] for s in sessions if s["foreign_cpus"] is not None), default=None),
        "flags": list(dict.fromkeys(flag for session in sessions for flag in session["flags"])),
        "sessions": list(sessions),
    }


def _ratio_summary(name: str, ratios: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    by_scenario = {scenario: by_system[name] for scenario, by_system in ratios.items() if name in by_system}
    first = next(iter(by_scenario))
    mean = float(np.exp(np.mean([np.log(ratio["estimate"]) for ratio in by_scenario.values()])))
    return {"scenario": first, **by_scenario[first], "geometric_mean": mean, "scenarios": len(by_scenario)}


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(value, 4) for value in values]
