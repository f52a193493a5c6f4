"""The history folder, and pytest-benchmark's JSON read as any other result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doubles.bench_results import SCENARIO, latency_file
from instantrt.cli import main
from instantrt_bench.history import keep, read_history, trend
from instantrt_bench.micro import read_any_results
from instantrt_bench.results import ResultError

DATA_S = [0.002, 0.0021, 0.0019, 0.002, 0.002, 0.0022]


def pytest_benchmark_json(scale: float = 1.0, **stats: Any) -> dict[str, Any]:
    """What pytest-benchmark 5 writes, with what is not read left out."""
    return {
        "machine_info": {
            "node": "host",
            "system": "Linux",
            "release": "6",
            "machine": "x86_64",
            "python_version": "3.11.7",
            "cpu": {"brand_raw": "Quick 3000", "count": 2},
        },
        "commit_info": {"id": "ab", "dirty": False},
        "benchmarks": [
            {"name": "test_noise", "params": None, "stats": {"data": [scale * s for s in DATA_S], **stats}},
            {"name": "test_step_table[euler]", "params": {"sampler": "euler"}, "stats": {"data": DATA_S}},
        ],
        "datetime": "2026-01-02T12:00:00+00:00",
        "version": "5.3.1",
    }


def test_files_are_kept_once_named_by_time_and_commit_and_read_oldest_first(tmp_path: Path) -> None:
    new = latency_file([[10.0] * 6])
    old = replace(new, created="2025-12-31T23:00:00+00:00", commit={"sha": "f" * 40, "dirty": True})
    other = replace(new, summary={"flags": []})
    assert keep(new, tmp_path) == keep(new, tmp_path) == tmp_path / "20260102T120000Z_latency_0000000000.json"
    assert keep(old, tmp_path).name == "20251231T230000Z_latency_ffffffffff-dirty.json"
    assert keep(other, tmp_path).name.endswith("_2.json")
    assert [kept.results for kept in read_history(tmp_path)] == [old, new, other]


def test_the_command_adds_and_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = tmp_path / "history", tmp_path / "latency.json"
    latency_file([[10.0] * 6]).write(file)
    assert main(["bench", "history", str(folder)]) == 1
    assert "not a folder" in capsys.readouterr().err
    assert main(["bench", "history", str(folder), "--add", str(file)]) == 0
    assert SCENARIO in capsys.readouterr().out
    assert main(["bench", "history", str(folder), "--json", "--scenario", "steps=10"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["scenario"], row["commit"], row["status"]) == (SCENARIO, "0" * 40, "ok")
    assert main(["bench", "history", str(folder), "--json", "--scenario", "steps=99"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == []
    (folder / "broken.json").write_text("{")
    assert main(["bench", "history", str(folder)]) == 1


def test_micro_benchmarks_become_scenarios(tmp_path: Path) -> None:
    path = tmp_path / "micro.json"
    path.write_text(json.dumps(pytest_benchmark_json()))
    results = read_any_results(path)
    assert (results.kind, results.machine["cpu"], results.commit["sha"]) == ("micro", "Quick 3000", "ab")
    assert [s.id for s in results.scenarios] == ["micro/test_noise", "micro/test_step_table[euler]"]
    noise = results.scenarios[0].systems["runtime"]
    assert noise.samples["latency_ms"] == pytest.approx([2, 2.1, 1.9, 2, 2, 2.2])
    assert noise.summary["latency_ms"]["p50"] == pytest.approx(2)
    assert keep(results, tmp_path / "history").name.startswith("20260102T120000Z_micro_ab")
    rows = list(trend(read_history(tmp_path / "history")))
    assert [row["latency_ms_p50"] for row in rows] == pytest.approx([2, 2])


@pytest.mark.parametrize(("scale", "status"), [(1.02, 0), (1.5, 3)])
def test_compare_reads_micro_benchmarks(tmp_path: Path, scale: float, status: int) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    files[0].write_text(json.dumps(pytest_benchmark_json()))
    files[1].write_text(json.dumps(pytest_benchmark_json(scale)))
    assert main(["bench", "compare", *map(str, files)]) == status


def test_saved_without_raw_samples_they_are_refused(tmp_path: Path) -> None:
    data = pytest_benchmark_json()
    del data["benchmarks"][0]["stats"]["data"]
    path = tmp_path / "micro.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ResultError, match="benchmark-save-data"):
        read_any_results(path)
    path.write_text(json.dumps({"benchmarks": []}))
    with pytest.raises(ResultError, match="machine_info"):
        read_any_results(path)
    path.write_text("[]")
    with pytest.raises(ResultError, match="not a result file"):
        read_any_results(path)
