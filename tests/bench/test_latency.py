"""Who runs when, and what is made of the times."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from instantrt import GenerateRequest
from instantrt_bench import latency
from instantrt_bench.latency import Race, Run, Runs, race, stage_table


def runs_of(latencies_ms: list[float], overheads_us: list[float]) -> Runs:
    pairs = zip(latencies_ms, overheads_us, strict=True)
    return Runs(tuple(Run(ms, {"loop": ms / 2, "vae": ms / 4}, us) for ms, us in pairs))


def test_medians_and_ratio() -> None:
    ours, theirs = runs_of([10, 30, 11], [5, 7, 90]), runs_of([50, 44, 40], [100, 200, 300])
    assert (ours.latency_ms, ours.overhead_us_per_step) == (11, 7)
    assert ours.stages_ms == {"loop": 5.5, "vae": 2.75}
    assert Race(ours, theirs, None).ratio == 4.0
    assert ours.to_json()["latency_ms_samples"] == [10, 30, 11]


def test_the_table_shows_both_sides_in_aligned_columns() -> None:
    lines = stage_table(Race(runs_of([10], [5]), runs_of([40], [100]), None)).splitlines()
    assert lines[1].split() == ["end", "to", "end", "10.0", "ms", "40.0", "ms", "4.00x"]
    assert lines[2].split()[-1] == "20.00x"
    assert {len(line) for line in lines} == {len(lines[0])}
    assert sum("runtime: " in line for line in lines) == sum("reference: " in line for line in lines) == 2


@pytest.mark.parametrize("runs", [1, 2, 5])
def test_runs_alternate_after_one_untimed_run_of_each(monkeypatch: pytest.MonkeyPatch, runs: int) -> None:
    request = GenerateRequest(face=b"photo", prompt="a person", seed=3)
    order: list[str] = []
    pixels, latents = np.zeros((1, 8, 8, 3), np.uint8), np.ones((1, 4, 1, 1), np.float32)
    timings = SimpleNamespace(stages_ms={"loop": 1.0}, overhead_us_per_step=2.0)

    def run(asked: GenerateRequest) -> SimpleNamespace:
        assert asked is request
        order.append("runtime")
        return SimpleNamespace(pixels=np.tile(pixels, (1, 2, 2, 1)), latents=latents, timings=timings)

    def generate(inputs: object) -> SimpleNamespace:
        assert inputs == "inputs"
        order.append("reference")
        return SimpleNamespace(
            images=np.tile(pixels, (1, 2, 2, 1)),
            latents=2 * latents,
            timings_ms={"denoise": 1.0},
            overhead_us_per_step=9.0,
        )

    monkeypatch.setattr(latency, "reference_inputs", lambda prepared: "inputs")
    result = race(SimpleNamespace(run=run, prepare=lambda r: r), SimpleNamespace(generate=generate), request, runs)
    pairs = [order[i : i + 2] for i in range(0, len(order), 2)]
    assert pairs[0] == ["runtime", "reference"]
    assert pairs[1:] == [["runtime", "reference"], ["reference", "runtime"]] * (runs // 2) + pairs[1:2] * (runs % 2)
    assert len(result.runtime.runs) == len(result.reference.runs) == runs
    assert list(result.reference.stages_ms) == ["decode and face", "denoise"]
    assert result.comparison.latents_error == 0.5
