"""Lines through latencies: recovered where they are exact, scipy's where they are not, and found in result files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import linregress

from doubles.bench_results import latency_file
from doubles.result_files import line_results
from instantrt_bench.results.files import SystemResult, read_results
from instantrt_bench.results.growth import Line, growth_of

STEPS = (4, 10, 30, 100)
MS = st.floats(0, 1e5)
POINTS = st.lists(st.tuples(st.integers(1, 1000), MS), min_size=3, max_size=12, unique_by=lambda point: point[0])


@given(fixed=MS, slope=st.floats(1e-3, 1e4), values=st.sets(st.integers(1, 1000), min_size=2, max_size=10))
def test_points_on_a_line_give_that_line(fixed: float, slope: float, values: set[int]) -> None:
    x = sorted(values)
    line = Line.through(x, [fixed + slope * value for value in x])
    scale = fixed + slope * max(x)
    assert (line.fixed_ms, line.slope_ms) == (pytest.approx(fixed, abs=1e-8 * scale), pytest.approx(slope, rel=1e-6))
    assert line.r2 == pytest.approx(1, abs=1e-6)
    assert line.largest_residual_ms <= 1e-8 * scale
    assert line.at(0) == line.fixed_ms


@given(POINTS)
def test_the_line_is_scipys_and_its_residuals_are_what_is_left(points: list[tuple[int, float]]) -> None:
    x, y = zip(*points, strict=True)
    line, theirs = Line.through(x, y), linregress(x, y)
    near = {"rel": 1e-6, "abs": 1e-6 * (1 + max(y))}
    assert (line.slope_ms, line.fixed_ms) == (
        pytest.approx(theirs.slope, **near),
        pytest.approx(theirs.intercept, **near),
    )
    assert line.largest_residual_ms == pytest.approx(max(abs(np.subtract(y, [line.at(v) for v in x]))), **near)
    assert -1e-6 <= line.r2 <= 1 + 1e-6
    if np.ptp(y) > 1e-3:
        assert line.r2 == pytest.approx(theirs.rvalue**2, abs=1e-6)


def test_a_flat_line_leaves_nothing_to_explain() -> None:
    assert Line.through([1, 2, 3], [7, 7, 7]) == Line(7, 0, 1, 0)


@pytest.mark.parametrize(("x", "y"), [([], []), ([3, 3], [1, 2]), ([1, 2], [1]), ([1], [1])])
def test_no_line_through_too_little(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="two different values"):
        Line.through(x, y)


def test_lines_are_found_among_scenarios_in_any_order() -> None:
    results = line_results()
    results = replace(results, scenarios=results.scenarios[::-1])
    found = {(one.axis, one.system): one for one in growth_of(results)}
    assert len(found) == len(growth_of(results)) == 3 * 2
    steps, pixels = found["steps", "runtime-onnxruntime"], found["pixels", "reference-eager"]
    assert (steps.values, steps.p50_ms) == (STEPS, tuple(20 + 10.0 * s for s in STEPS))
    assert (steps.line.fixed_ms, steps.line.slope_ms) == (pytest.approx(20), pytest.approx(10))
    assert steps.held == "samples=1/guidance_scale=5.0/sampler=euler/size=128x128"
    assert steps.share_of_peak == pytest.approx((0.25,) * 4)
    assert pixels.values == pytest.approx((4.096, 16.384, 65.536))
    assert "width" not in pixels.held
    assert found["samples", "reference-eager"].values == (1, 2, 4)


def test_what_failed_or_was_not_measured_is_on_no_line() -> None:
    results = line_results()
    scenarios = list(results.scenarios)
    for place in (0, 1):
        runtime = scenarios[place].systems["runtime-onnxruntime"]
        kept = {**scenarios[place].systems, "runtime-onnxruntime": replace(runtime, status="failed", error="planted")}
        scenarios[place] = replace(scenarios[place], systems=kept)
    scenarios[2] = replace(scenarios[2], systems={**scenarios[2].systems, "runtime-tensorrt": SystemResult("ok")})
    lines = growth_of(replace(results, scenarios=tuple(scenarios)))
    assert {(one.axis, one.system) for one in lines} == {(a, "reference-eager") for a in ("steps", "samples", "pixels")}


def test_files_without_lines_and_older_ones_are_read(tmp_path: Path) -> None:
    old = latency_file([[1.0, 2.0]])
    old.write(tmp_path / "old.json")
    assert growth_of(read_results(tmp_path / "old.json")) == []


def test_plain_data_is_json_and_names_every_figure() -> None:
    data = growth_of(line_results())[0].to_json()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    assert {"axis", "unit", "held", "system", "values", "p50_ms", "share_of_peak"} < set(data)
    assert {"fixed_ms", "slope_ms", "r2", "largest_residual_ms"} < set(data)
