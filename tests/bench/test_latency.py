"""Who runs when, and what is made of the times."""

from __future__ import annotations

import subprocess
import sys
import time
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from instantrt import GenerateRequest
from instantrt_bench import latency
from instantrt_bench.latency import Race, Run, Runs, race, stage_table, varied
from instantrt_bench.machine import CpuTimes
from instantrt_bench.portrait import portrait_jpeg


def runs_of(latencies_ms: list[float], overheads_us: list[float]) -> Runs:
    pairs = zip(latencies_ms, overheads_us, strict=True)
    return Runs(tuple(Run(ms, {"loop": ms / 2, "vae": ms / 4}, us) for ms, us in pairs))


def test_medians_and_ratio() -> None:
    ours, theirs = runs_of([10, 30, 11], [5, 7, 90]), runs_of([50, 44, 40], [100, 200, 300])
    assert (ours.latency_ms, ours.overhead_us_per_step) == (11, 7)
    assert ours.stages_ms == {"loop": 5.5, "vae": 2.75}
    assert Race(ours, theirs, None, None).ratio == 4.0
    assert ours.to_json()["latency_ms_samples"] == [10, 30, 11]


def test_the_table_shows_both_sides_in_aligned_columns() -> None:
    lines = stage_table(Race(runs_of([10], [5]), runs_of([40], [100]), None, 0.1)).splitlines()
    assert lines[1].split() == ["end", "to", "end", "10.0", "ms", "40.0", "ms", "4.00x"]
    assert lines[2].split()[-1] == "20.00x"
    assert {len(line) for line in lines} == {len(lines[0])}
    assert sum("runtime: " in line for line in lines) == sum("reference: " in line for line in lines) == 2


def test_a_busy_machine_is_said() -> None:
    ours, theirs = runs_of([10], [5]), runs_of([40], [100])
    assert [Race(ours, theirs, None, cpus).quiet for cpus in (None, 0.0, 0.1, 0.5)] == [True, True, True, False]
    assert "0.5 CPUs busy" in stage_table(Race(ours, theirs, None, 0.5))
    assert "busy" not in stage_table(Race(ours, theirs, None, 0.1))


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
    own = CpuTimes(
        wall_s=time.perf_counter() - 2, machine_s=CpuTimes.now().machine_s - 3, own_s=time.process_time() - 2
    )
    assert own.foreign_cpus_since() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("runs", [1, 2, 5])
def test_runs_alternate_and_no_photo_or_prompt_comes_twice(monkeypatch: pytest.MonkeyPatch, runs: int) -> None:
    order: list[str] = []
    asked: list[GenerateRequest] = []
    timings = SimpleNamespace(stages_ms={"loop": 1.0}, overhead_us_per_step=2.0)
    generated = SimpleNamespace(timings_ms={"denoise": 1.0}, overhead_us_per_step=9.0)

    def request(variant: int) -> GenerateRequest:
        return GenerateRequest(face=portrait_jpeg(variant), prompt=varied("a person", variant), seed=3)

    def run(request: GenerateRequest) -> SimpleNamespace:
        order.append("runtime")
        asked.append(request)
        return SimpleNamespace(timings=timings)

    def prepare(request: GenerateRequest) -> str:
        order.append("reference")
        asked.append(request)
        return "prepared"

    def compared(runtime: object, reference: object, request: GenerateRequest) -> str:
        asked.append(request)
        return "comparison"

    monkeypatch.setattr(latency, "compare", compared)
    monkeypatch.setattr(latency, "reference_inputs", lambda prepared: prepared)
    runtime = SimpleNamespace(run=run, prepare=prepare)
    result = race(runtime, SimpleNamespace(generate=lambda inputs: generated), request, runs)
    pairs = [order[i : i + 2] for i in range(0, len(order), 2)]
    assert pairs == ([["runtime", "reference"], ["reference", "runtime"]] * runs)[:runs]
    assert len({r.prompt for r in asked}) == len({r.face for r in asked}) == 2 * runs + 1
    assert asked[0].prompt == "a person"
    assert len(result.runtime.runs) == len(result.reference.runs) == runs
    assert list(result.reference.stages_ms) == ["decode and face", "denoise"]
    assert result.comparison == "comparison"


def test_portrait_variants_differ_only_in_a_corner() -> None:
    photos = [np.asarray(Image.open(BytesIO(portrait_jpeg(variant))), np.int32) for variant in (0, 1, 2, 15)]
    assert len({photo.tobytes() for photo in photos}) == 4
    for photo in photos[1:]:
        np.testing.assert_array_equal(photo[64:, 64:], photos[0][64:, 64:])
