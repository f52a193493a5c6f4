"""The small file of a whole matrix: its figures are those of the result files, and it stays small."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doubles.bench_results import latency_file
from doubles.result_files import line_results
from instantrt_bench.report.compact import BASELINES, GROWTH_COLUMNS, compact, compact_text, markdown
from instantrt_bench.results.files import ResultFile
from instantrt_bench.results.systems import CPU_MATRIX, REFERENCE_EAGER, RUNTIME_ONNXRUNTIME
from instantrt_bench.suite import bench_figures

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def matrix(threads: int) -> ResultFile:
    """Every system of a CPU in every scenario, all as fast as each other but the reference."""
    results = line_results(threads=threads)
    names = [row.id for row in CPU_MATRIX]
    scenarios = [
        replace(one, systems={name: one.systems.get(name, one.systems[RUNTIME_ONNXRUNTIME]) for name in names})
        for one in results.scenarios
    ]
    return replace(results, scenarios=tuple(scenarios))


def test_figures_are_those_of_the_files() -> None:
    results = line_results()
    results = replace(results, machine={**results.machine, "host": "somebody's"})
    kept = compact([results], bench_figures({"latency": results}, []))
    assert kept["commit"] == results.commit
    assert kept["machine"] == {name: fact for name, fact in results.machine.items() if name != "host"}
    (latency,) = kept["latency"].values()
    first = results.scenarios[0]
    assert latency["medians"][first.id][RUNTIME_ONNXRUNTIME][:4] == [120, 119, 121, 3]
    ratios = latency["ratios"][first.id][RUNTIME_ONNXRUNTIME]
    estimate = first.comparison["ratios"][RUNTIME_ONNXRUNTIME]
    assert ratios[BASELINES.index(REFERENCE_EAGER)] == [
        pytest.approx(estimate[key], rel=1e-3) for key in ("estimate", "low", "high")
    ]
    assert [ratio is None for ratio in ratios] == [name != REFERENCE_EAGER for name in BASELINES]
    assert dict(zip(GROWTH_COLUMNS, latency["growth"]["steps, ms per step"][RUNTIME_ONNXRUNTIME], strict=True)) == {
        **{"fixed_ms": pytest.approx(20), "slope_ms": pytest.approx(10), "r2": 1},
        **{"largest_residual_ms": pytest.approx(0, abs=1e-9), "share_of_peak_first": 0.25, "share_of_peak_last": 0.25},
    }


def test_a_whole_matrix_stays_below_30_kb_and_its_tables_are_whole() -> None:
    found = {"latency": matrix(2), "latency-1-thread": matrix(1)}
    kept = compact(list(found.values()), bench_figures(found, []))
    text = compact_text(kept)
    assert json.loads(text) == json.loads(json.dumps(kept))
    assert len(text) < 30_000
    tables = [line for line in markdown(kept).splitlines() if line.startswith("|")]
    assert len(tables) == 2 * (2 + 8 + 2 + 3 + 2 + 3 * len(CPU_MATRIX))
    assert "| runtime-onnxruntime | steps, ms per step | 20 | 10 | 1 |" in "\n".join(tables)
    assert "120, **2.00\u00d7** [" in "\n".join(tables)
    names = [line.split(" | ")[0] for line in tables[2:10]]
    assert len(set(names)) == 8
    assert all(name.startswith("| steps ") and "=" not in name for name in names), "only what tells them apart"


def test_what_failed_is_left_out_and_said() -> None:
    results = line_results()
    one = results.scenarios[0]
    failed = replace(one.systems[RUNTIME_ONNXRUNTIME], status="failed", error="planted")
    broken = replace(one, systems={**one.systems, RUNTIME_ONNXRUNTIME: failed})
    results = replace(results.with_scenario(broken), summary={"failed": ["planted"], "flags": []})
    kept = compact([results], {})
    (latency,) = kept["latency"].values()
    assert list(latency["medians"][one.id]) == [REFERENCE_EAGER]
    assert latency["ratios"][one.id] == {}
    assert "* planted" in markdown({**kept, "machine": None})


def test_nothing_measured_and_old_files_make_a_file() -> None:
    for files in ([], [latency_file([[1.0, 2.0]])]):
        kept = compact(files, bench_figures({}, []))
        assert json.loads(compact_text(kept))["schema"] == 1
        assert markdown(kept).startswith("# ")


@given(JSON)
def test_the_text_is_the_same_json(data: object) -> None:
    assert json.loads(compact_text(data)) == data
