"""A thousand requests a second on 64 devices: the policy and admission under load and under far too much of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doubles.result_files import latency_results
from instantrt_serve.admission import AdmissionLimits
from instantrt_serve.scheduler.__main__ import main
from instantrt_serve.scheduler.policy import Limits
from instantrt_serve.scheduler.simulation import Load, ServiceTimes, report, simulate, utilisation


def run(load: Load, share: float, lanes: int = 8) -> dict[str, Any]:
    times = ServiceTimes(40.0, 100.0)
    times = times.scaled(share / utilisation(load, times))
    return report(load, times, simulate(load, times, Limits(lanes), AdmissionLimits()))


def test_nearly_full_devices_serve_everybody_and_short_requests_hardly_wait() -> None:
    figures = run(Load(seconds=1.5, deadline_s=60), 0.9)
    assert figures["requests"] > 1300
    assert figures["lost"] == figures["refused"] == figures["expired"] == 0
    assert figures["done"] == figures["requests"]
    assert figures["short_p95_ms"] < 0.5 * figures["fifo_short_p95_ms"]


def test_five_times_too_much_is_refused_early_and_what_is_taken_is_done_in_time() -> None:
    load = Load(seconds=2.0, deadline_s=2.0)
    figures = run(load, 5.0)
    assert figures["lost"] == 0
    assert figures["refused"] > 0.3 * figures["requests"]
    assert figures["expired"] <= 0.01 * figures["requests"]
    assert figures["done"] > 0.2 * figures["requests"]
    assert figures["p99_ms"] <= load.deadline_s * 1e3


def test_the_same_seed_gives_the_same_figures() -> None:
    load = Load(seconds=0.2)
    assert run(load, 0.9) == run(load, 0.9)
    assert run(load, 0.9) != run(Load(seconds=0.2, seed=1), 0.9)


def test_the_command_reads_times_from_a_result_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = latency_results(np.random.default_rng(1)).to_json()
    for scenario in results["scenarios"]:
        samples = scenario["systems"]["runtime-onnxruntime"]["samples"]
        samples["call_ms"] = [4.0, 5.0, 6.0]
        samples["latency_ms"], samples["stages_ms"] = [60.0, 61.0, 62.0], {"denoise": [50.0, 50.0, 50.0]}
    (tmp_path / "latency.json").write_text(json.dumps(results))
    assert main([str(tmp_path / "latency.json"), "--seconds", "0.1"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["service_times_ms"] == {"call": 5.0, "fixed": 11.0}
    assert figures["lost"] == 0
    assert main([str(tmp_path / "latency.json"), "--seconds", "0.1", "--utilisation", "0.8"]) == 0
    scaled = json.loads(capsys.readouterr().out)
    assert scaled["utilisation"] == pytest.approx(0.8, abs=0.001)
    assert scaled["service_times_ms"]["call"] == pytest.approx(5.0 * scaled["service_time_scale"], rel=1e-2)
