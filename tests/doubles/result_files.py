"""Made-up result files of every kind, with pictures where they belong, and a history of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from instantrt_bench.latency.roofline import Peak, Roofline
from instantrt_bench.latency.scenario import Scenario
from instantrt_bench.latency.summary import latency_summary
from instantrt_bench.regression.history import keep
from instantrt_bench.results.files import ResultFile, ScenarioResult, SystemResult
from instantrt_bench.results.pictures import PictureFolder
from instantrt_bench.results.statistics import median_interval, paired_mean_difference, paired_ratio, summarise
from instantrt_bench.results.systems import REFERENCE_EAGER, RUNTIME_ONNXRUNTIME
from instantrt_engines.cost import Cost

SCENARIO = "e2e/steps=10/samples=1/guidance=5/size=128x128/sampler=euler"
SLOW_SCENARIO, SLOW = SCENARIO.replace("steps=10", "steps=100"), 14.2  # times as slow: figures of many digits
LONG_PATH = "/" + "folder_without_a_place_to_break_" * 4
STAGES = {
    RUNTIME_ONNXRUNTIME: {"photo": 3.0, "face": 20.0, "text": 2.0, "denoise": 190.0, "decode": 21.0, "encode": 0.5},
    REFERENCE_EAGER: {"photo and face": 24.0, "prepare": 12.0, "denoise": 520.0, "decode": 33.0, "encode": 0.5},
}

COST = Cost(parameters=2_000_000, weight_bytes=8_000_000, flops=2_000_000_000, bytes=9_000_000)
PEAK = Peak(tflops=0.2, gbs=20.0, source="measured: numpy's fp32 product of 1024x1024 matrices, copy of 128 MiB")


def result_file(kind: Any, scenarios: Sequence[ScenarioResult], summary: dict[str, Any], **changes: Any) -> ResultFile:
    """A file with facts of a made-up machine."""
    made = ResultFile(
        kind=kind,
        created="2030-01-02T03:04:05+00:00",
        command=f"instantrt bench {kind} bundle --checkpoint {LONG_PATH}",
        machine={"cpu": "Example CPU", "logical_cpus": 2, "system": "Linux", "python": "3.11"},
        versions={"numpy": "2.4.6", "tensorrt": None},
        threads=2,
        commit={"sha": "0123456789abcdef", "dirty": False},
        bundle={"precision": "fp32", "plans": {}},
        options={"steps": 10},
        scenarios=tuple(scenarios),
        summary=summary,
    )
    return replace(made, **changes)


def latency_results(rng: np.random.Generator, *, slowdown: float = 1.0, **changes: Any) -> ResultFile:
    """Two scenarios in which two systems ran and one failed."""
    scenarios = [_latency_scenario(rng, SCENARIO, slowdown), _latency_scenario(rng, SLOW_SCENARIO, SLOW * slowdown)]
    first = scenarios[0].comparison
    ratios = {name: {"scenario": SCENARIO, **ratio} for name, ratio in first["ratios"].items()}
    return result_file("latency", scenarios, {"ratio_eager": ratios, "flags": first["flags"]}, **changes)


def line_results(**changes: Any) -> ResultFile:
    """Two systems whose latencies lie on lines along steps, samples and pixels, through one request."""
    along_steps = [(steps, 1, 128) for steps in (10, 4, 30, 100)]
    scenarios = []
    for steps, samples, side in (*along_steps, (10, 2, 128), (10, 4, 128), (10, 1, 64), (10, 1, 256)):
        scenario = Scenario(steps=steps, samples=samples, width=side, height=side)
        ms = 20 + steps * samples * 10 * (side / 128) ** 2
        times = {RUNTIME_ONNXRUNTIME: [ms - 1, ms, ms + 1], REFERENCE_EAGER: [2 * ms - 1, 2 * ms, 2 * ms + 1]}
        systems = {name: _timed(latency_ms, {"denoise": latency_ms}) for name, latency_ms in times.items()}
        for system in systems.values():
            system.summary["roofline"]["denoise"]["share_of_peak"] = 0.25
        ratio = paired_ratio(times[REFERENCE_EAGER], times[RUNTIME_ONNXRUNTIME]).to_json()
        comparison = {"ratios": {RUNTIME_ONNXRUNTIME: ratio}, "flags": [], "sessions": []}
        scenarios.append(ScenarioResult(scenario.id, scenario.to_json(), systems, comparison))
    made = result_file("latency", scenarios, {}, **changes)
    return replace(made, summary=latency_summary(made))


def fidelity_results(rng: np.random.Generator, path: Path, **changes: Any) -> ResultFile:
    """Networks and cases, one of each beyond its limits; pictures are written beside ``path``."""
    scenarios = [_network(name, float(10 ** rng.uniform(-7, -5.5))) for name in ("text_encoder", "identitynet", "unet")]
    scenarios.append(_network("vae_decoder", 3e-3))
    cases = [_fidelity_case(rng, path, seed, sampler) for seed in (1, 2, 3) for sampler in ("euler", "heun")]
    psnr = [case.comparison["psnr_db"] for case in cases]
    summary = {
        "verdict": "fail",
        "cases_compared": len(cases),
        "worst_psnr_db": min(psnr),
        "worst_ssim": 0.9999998,
        "worst_latents_error": max(case.comparison["latents_relative_error"] for case in cases),
        "lpips_missing": "the package lpips is not installed",
    }
    return result_file("fidelity", [*scenarios, *cases], summary, **changes)


def identity_results(rng: np.random.Generator, *, pairs: int = 12, **changes: Any) -> ResultFile:
    """Two judges over ``pairs`` pairs that show faces, and one case without a face."""
    names = {"faceres": True, "bundle-encoder": False}
    both = {name: rng.uniform(0.4, 0.8, pairs) + rng.normal(0, 0.01, (2, pairs)) for name in names}
    cases = [_identity_case(index, {n: values[:, index] for n, values in both.items()}) for index in range(pairs)]
    cases.append(_identity_case(pairs, {}))
    judges = {}
    for name, independent in names.items():
        interval = paired_mean_difference(*map(list, both[name])) if pairs else None
        judges[name] = {
            "independent": independent,
            "pairs": pairs,
            "identity_delta": interval and interval.estimate,
            "identity_delta_interval": interval and [interval.low, interval.high],
            "verdict": "not worse" if pairs else "not judged",
            "mean_similarity_runtime": float(both[name][0].mean()) if pairs else None,
            "mean_similarity_reference": float(both[name][1].mean()) if pairs else None,
            "different_photos": {"a, b": 0.12},
        }
    figures = {"embedding_norm": 1.4, "reference_norm": 1.4, "embedding_error": 1e-6, "limit": 1e-4}
    condition = ScenarioResult(
        "conditions/photo=a",
        {"conditions_of": "a"},
        {RUNTIME_ONNXRUNTIME: SystemResult("ok")},
        {**figures, "failures": [], "within_limits": True},
    )
    summary = {
        "verdict": "pass" if pairs else "not judged",
        "failures": {},
        "statement": f"No face was detected in 1 of {pairs + 1} pictures of the runtime.",
        "max_delta": 0.02,
        "identity_judge": "faceres",
        **{key: judges["faceres"][key] for key in ("identity_delta", "identity_delta_interval")},
        "judges": judges,
        "detection": {"cases": pairs + 1, "runtime": pairs, "reference": pairs},
        "landmark_error": {"unit": "eye distances", "mean_runtime": 0.05, "mean_reference": 0.06},
    }
    return result_file("identity", [condition, *cases], summary, **changes)


def make_history(rng: np.random.Generator, folder: Path, runs: int = 12) -> None:
    """Latency and fidelity of several commits, the last ones slower, one run on another machine."""
    for run in range(runs):
        facts = {
            "created": f"2030-01-{run + 1:02}T00:00:00+00:00",
            "commit": {"sha": f"{rng.integers(16**12):012x}", "dirty": run == 3},
        }
        keep(latency_results(rng, slowdown=1.2 if run > 7 else 1.0, **facts), folder)
        summary = {"worst_psnr_db": float(rng.uniform(80, 90)), "worst_latents_error": 4e-6}
        keep(result_file("fidelity", [], summary, **facts), folder)
    other = {"cpu": "Another CPU", "logical_cpus": 64}
    keep(latency_results(rng, slowdown=0.3, created="2030-01-20T00:00:00+00:00", machine=other), folder)


def _latency_scenario(rng: np.random.Generator, scenario_id: str, slowdown: float) -> ScenarioResult:
    systems, samples = {}, {}
    for name, stages in STAGES.items():
        noise = rng.lognormal(0, 0.04, 20) * slowdown
        samples[name] = list(sum(stages.values()) * noise)
        systems[name] = _timed(samples[name], {stage: list(ms * noise) for stage, ms in stages.items()})
    systems["reference-compiled"] = SystemResult("failed", "RuntimeError: no compiler <was> found & none will be")
    ratio = paired_ratio(samples[REFERENCE_EAGER], samples[RUNTIME_ONNXRUNTIME]).to_json()
    comparison = {"ratios": {RUNTIME_ONNXRUNTIME: ratio}, "flags": ["other processes kept the CPU busy"]}
    return ScenarioResult(scenario_id, {}, systems, comparison)


def _timed(latency_ms: list[float], stages_ms: dict[str, list[float]]) -> SystemResult:
    summary = {
        "latency_ms": {**summarise(latency_ms), "median_interval": median_interval(latency_ms).to_json()},
        "pictures_per_s": 1e3 / float(np.mean(latency_ms)),
        "stages_ms": {name: summarise(values) for name, values in stages_ms.items()},
        "call_ms": summarise([ms / 10 for ms in latency_ms]),
        "host_overhead_us_per_call": summarise([100.0] * len(latency_ms)),
        "cold_start_ms": {"total_ms": 5000.0},
        "peak_host_bytes": 700_000_000,
        "peak_device_bytes": None,
        "roofline": {part: Roofline.of(COST, ms, PEAK).to_json() for part, ms in (("denoise", 19.0), ("decode", 21.0))},
    }
    return SystemResult("ok", samples={"latency_ms": latency_ms, "stages_ms": stages_ms}, summary=summary)


def _network(name: str, error: float) -> ScenarioResult:
    within = error < 1e-5
    comparison = {
        "relative_error": error,
        "against": "torch module, fp32",
        "limits": {"relative_error": 1e-5},
        "failures": [] if within else [f"images: relative error {error:.1e}"],
        "within_limits": within,
    }
    systems = {RUNTIME_ONNXRUNTIME: SystemResult("ok")}
    return ScenarioResult(f"network={name}", {"network": name, "draws": 3}, systems, comparison)


def _fidelity_case(rng: np.random.Generator, path: Path, seed: int, sampler: str) -> ScenarioResult:
    name = f"photo=a/prompt=noir/seed={seed}/sampler={sampler}"
    smooth = np.linspace(0, 200, 96)[:, None, None] + np.linspace(0, 50, 96)[None, :, None]
    runtime = np.broadcast_to(smooth, (96, 96, 3)).astype(np.uint8)
    reference = runtime + rng.integers(0, 3, runtime.shape, dtype=np.uint8)
    pictures = PictureFolder(path).keep(name, {"photo": reference, "runtime": runtime, "reference": reference})
    errors = [float(x) for x in 1e-6 * np.cumsum(rng.uniform(0.5, 1.5, 19 if sampler == "heun" else 10))]
    comparison = {
        "latents_relative_error_per_call": errors,
        "latents_relative_error": max(errors),
        "psnr_db": float(rng.uniform(52, 90)),
        "ssim": 0.9999998,
        "lpips": None,
        "limits": {"latents_error": 1e-3, "psnr_db": 50.0},
        "failures": [],
        "within_limits": True,
        "pictures": pictures,
    }
    parameters = {"photo": "a", "licence": "public domain", "prompt": "noir", "seed": seed, "sampler": sampler}
    systems = {RUNTIME_ONNXRUNTIME: SystemResult("ok"), REFERENCE_EAGER: SystemResult("ok")}
    return ScenarioResult(name, parameters, systems, comparison)


def _identity_case(seed: int, similarity: dict[str, Any]) -> ScenarioResult:
    systems = {}
    for index, name in enumerate((RUNTIME_ONNXRUNTIME, REFERENCE_EAGER)):
        found = {judge: [float(values[index])] for judge, values in similarity.items()}
        samples = {"faces": [int(bool(found))], "similarity": found, "landmark_error": [0.05] if found else []}
        systems[name] = SystemResult("ok", samples=samples)
    return ScenarioResult(f"photo=a/prompt=noir/seed={seed}/sampler=euler", {"photo": "a"}, systems)
