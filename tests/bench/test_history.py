"""The history folder, and pytest-benchmark's JSON read as any other result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from doubles.bench_results import SCENARIO, latency_file
from instantrt.cli import main
from instantrt_bench.regression.history import keep, read_history, trend
from instantrt_bench.results.files import ResultError
from instantrt_bench.results.micro import read_any_results

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


def test_a_folder_of_micro_benchmarks_is_one_file_of_many_sessions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sessions that alternate between A and B: a change of a tenth counts, which it does not between two files."""
    folders = {1.0: tmp_path / "a", 1.1: tmp_path / "b"}
    for scale, folder in folders.items():
        folder.mkdir()
        for session in range(3):
            data = pytest_benchmark_json(scale)
            data["datetime"] = f"2026-01-02T12:{2 * session + (scale > 1):02}:00+00:00"
            (folder / f"{session}.json").write_text(json.dumps(data))
    noise = read_any_results(folders[1.0]).scenarios[0]
    assert noise.systems["runtime"].samples["session"] == [0] * 6 + [1] * 6 + [2] * 6
    assert noise.systems["runtime"].summary["latency_ms"]["n"] == 18
    assert [session["started"][14:16] for session in noise.comparison["sessions"]] == ["00", "02", "04"]
    command = ["bench", "compare", *map(str, folders.values())]
    assert main([*command, "--json"]) == 3
    verdicts = {c["scenario"]: c["verdict"] for c in json.loads(capsys.readouterr().out)["changes"]}
    assert verdicts == {"micro/test_noise": "slower", "micro/test_step_table[euler]": "same"}
    single = [str(folder / "0.json") for folder in folders.values()]
    assert main(["bench", "compare", *single]) == 0


def test_a_folder_holds_sessions_of_one_state(tmp_path: Path) -> None:
    data = pytest_benchmark_json()
    (tmp_path / "0.json").write_text(json.dumps(data))
    data["commit_info"]["id"] = "cd"
    (tmp_path / "1.json").write_text(json.dumps(data))
    with pytest.raises(ResultError, match="do not belong together") as caught:
        read_any_results(tmp_path)
    assert "commit" in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResultError, match="no results of pytest-benchmark"):
        read_any_results(tmp_path / "empty")


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
