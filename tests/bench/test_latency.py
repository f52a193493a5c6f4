"""Who runs when, and what is made of the times: systems that sleep instead of computing, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from doubles.bench_systems import open_sleeping
from instantrt_bench.cases.portrait import portrait_jpeg
from instantrt_bench.latency.measure import Fleet, Measurement, Rules, measure
from instantrt_bench.latency.scenario import Requests, Scenario
from instantrt_bench.latency.summary import scenario_result
from instantrt_bench.latency.systems import SystemSpec
from instantrt_bench.results.machine import CpuTimes
from instantrt_bench.results.systems import REFERENCE_EAGER, RUNTIME_ONNXRUNTIME

SYSTEMS = (RUNTIME_ONNXRUNTIME, REFERENCE_EAGER)
SCENARIO = Scenario(steps=4, width=64, height=64)
FEW = Rules(warm_up=1, min_samples=6, max_samples=6)


def measured(plan: Mapping[str, Mapping[str, Any]], rules: Rules = FEW) -> Measurement:
    specs = [SystemSpec(name, Path(), json.dumps(plan), None) for name in SYSTEMS]
    with Fleet(specs, open_sleeping) as fleet:
        return measure(fleet, SCENARIO, Requests(), rules)


def test_the_ratio_is_that_of_the_systems_times() -> None:
    result = scenario_result(measured({RUNTIME_ONNXRUNTIME: {"ms": 5}, REFERENCE_EAGER: {"ms": 20}}))
    ratio = result.comparison["ratios"][RUNTIME_ONNXRUNTIME]
    assert ratio["estimate"] == pytest.approx(4)
    assert len(result.systems[RUNTIME_ONNXRUNTIME].samples["latency_ms"]) == 6
    assert [result.systems[name].status for name in SYSTEMS] == ["ok", "ok"]


def test_systems_take_turns_and_no_photo_or_prompt_comes_twice_to_one(tmp_path: Path) -> None:
    log = tmp_path / "log"
    measured({name: {"log": str(log)} for name in SYSTEMS})
    lines = [line.split(" ", 2) for line in log.read_text(encoding="utf-8").splitlines()]
    asked = {name: [tuple(rest) for system, *rest in lines if system == name] for name in SYSTEMS}
    assert asked[RUNTIME_ONNXRUNTIME] == asked[REFERENCE_EAGER]
    assert len(set(asked[REFERENCE_EAGER])) == len(asked[REFERENCE_EAGER]) == 7
    pairs = [{lines[i][0], lines[i + 1][0]} for i in range(0, len(lines), 2)]
    assert all(pair == set(SYSTEMS) for pair in pairs)


@pytest.mark.parametrize("failure", ["raise_at", "die_at", "wrong_at", "flat_at"])
def test_a_system_that_fails_is_reported_and_the_other_goes_on(failure: str) -> None:
    found = measured({RUNTIME_ONNXRUNTIME: {failure: 4}})
    assert found.tracks[RUNTIME_ONNXRUNTIME].status == "failed"
    assert found.tracks[RUNTIME_ONNXRUNTIME].error
    assert found.tracks[REFERENCE_EAGER].status == "ok"
    assert len(found.tracks[REFERENCE_EAGER].latencies_ms) == 6


def test_a_system_that_cannot_be_loaded_is_reported_with_its_error() -> None:
    found = measured({RUNTIME_ONNXRUNTIME: {"load_error": "planted"}})
    assert "planted" in str(found.tracks[RUNTIME_ONNXRUNTIME].error)
    assert found.tracks[REFERENCE_EAGER].status == "ok"


@pytest.mark.parametrize(
    ("samples", "seconds", "reason"),
    [
        ([[10.0] * 40], 0, "ceiling"),
        ([[10.0] * 20], 0, "noise"),
        ([[10.0] * 19], 0, None),
        ([[10.0, 20.0] * 10], 0, None),
        ([[10.0, 20.0] * 3], 700, "time"),
        ([[10.0, 20.0]], 700, None),
    ],
)
def test_it_stops_on_noise_between_a_floor_and_a_ceiling(
    samples: list[list[float]], seconds: float, reason: str | None
) -> None:
    assert Rules().reason_to_stop(samples, seconds) == reason


@pytest.mark.skipif(CpuTimes.now() is None, reason="the system has no /proc/stat")
def test_only_other_processes_count_as_foreign() -> None:
    def spin(seconds: float) -> None:
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        start = CpuTimes.now()
        spin(1.5)
        foreign_cpus = start.foreign_cpus_since()
        other.kill()
    assert foreign_cpus > 0.4  # the process had to share its CPU with this one at worst


def test_portrait_variants_differ_only_in_a_corner() -> None:
    photos = [np.asarray(Image.open(BytesIO(portrait_jpeg(variant))), np.int32) for variant in (0, 1, 2, 15)]
    assert len({photo.tobytes() for photo in photos}) == 4
    for photo in photos[1:]:
        np.testing.assert_array_equal(photo[64:, 64:], photos[0][64:, 64:])
