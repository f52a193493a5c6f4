"""Result files: written whole or not at all, read with errors that help."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from instantrt import Bundle, OutputError
from instantrt_bench.results import files as module
from instantrt_bench.results.files import (
    ResultError,
    ResultFile,
    ScenarioResult,
    SystemResult,
    bundle_facts,
    command_line,
    commit_facts,
    read_results,
)


@pytest.fixture
def results() -> ResultFile:
    empty = ResultFile.new("latency", bundle=None, threads=2, options={"noise": 0.02})
    system = SystemResult("ok", samples={"latency_ms": [1.5, 2.5]}, summary={"latency_ms": {"p50": 2.0}})
    return empty.with_scenario(ScenarioResult("a", {"steps": 4}, {"reference-eager": system}, {"ratios": {}}))


def test_what_is_written_is_read(results: ResultFile, tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "results.json"
    results.write(path)
    assert read_results(path) == read_results(path, "latency") == results
    assert json.loads(path.read_text("utf-8"))["schema"] == 2
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_a_scenario_measured_again_replaces_the_older_one(results: ResultFile) -> None:
    twice = results.with_scenario(ScenarioResult("b", {})).with_scenario(ScenarioResult("a", {"steps": 9}))
    assert [s.id for s in twice.scenarios] == ["b", "a"]
    assert twice.scenario("a").parameters == {"steps": 9}
    assert twice.scenario("c") is None


def test_a_failed_write_leaves_the_older_file(results: ResultFile, tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results.write(path)
    with pytest.raises(ValueError, match="JSON"):
        replace(results, summary={"ratio": float("nan")}).write(path)
    assert read_results(path) == results
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        results.write(tmp_path / "file" / "results.json")


def _without(data: dict, key: str) -> dict:
    return {name: value for name, value in data.items() if name != key}


@pytest.mark.parametrize(
    ("alter", "said"),
    [
        (lambda d: "{", "JSONDecodeError"),
        (lambda d: "[]", "TypeError"),
        (lambda d: json.dumps({**d, "schema": 7}), "schema 7"),
        (lambda d: json.dumps({**d, "kind": "beauty"}), "kind 'beauty'"),
        (lambda d: json.dumps(_without(d, "machine")), "machine"),
        (lambda d: json.dumps({**d, "scenarios": [{"id": "a"}]}), "systems"),
        (lambda d: json.dumps(d).replace('"ok"', '"fine"'), "status 'fine'"),
        (lambda d: json.dumps(d).replace('"error"', '"errors"'), "errors"),
    ],
)
def test_damaged_files_are_named(results: ResultFile, tmp_path: Path, alter, said: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(alter(results.to_json()), encoding="utf-8")
    with pytest.raises(ResultError, match=r"broken\.json") as caught:
        read_results(path)
    assert said in str(caught.value)


def test_missing_files_and_other_kinds_are_named(results: ResultFile, tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="cannot be read"):
        read_results(tmp_path / "absent.json")
    results.write(tmp_path / "latency.json")
    with pytest.raises(ResultError, match="no file of identity results"):
        read_results(tmp_path / "latency.json", "identity")


def test_a_new_file_says_where_it_comes_from(results: ResultFile) -> None:
    assert results.created.endswith("+00:00")
    assert results.versions["numpy"]
    assert {"host", "cpu", "logical_cpus", "system", "python"} <= results.machine.keys()
    assert results.bundle == {}
    assert results.command == command_line()


def test_the_command_is_one_that_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/instantrt", "bench", "two words"])
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    assert command_line() == "instantrt bench 'two words'"
    code = "from instantrt_bench.results import files as results; import runpy; print(results.command_line())"
    assert subprocess.check_output([sys.executable, "-c", code, "x"], text=True).strip() == "-c x"


def test_bundle_facts_change_with_what_they_identify(nano_bundle: Path, tmp_path: Path) -> None:
    facts = bundle_facts(Bundle.open(nano_bundle))
    assert facts["precision"] == "fp32"
    assert len({facts["dims_sha256"], facts["files_sha256"]}) == 2
    plans = tmp_path / "plans" / "tensorrt-rtx"
    plans.mkdir(parents=True)
    (plans / "unet.json").write_text(json.dumps({"identity": {"network": "unet"}, "file": {"sha256": "ab"}}))
    (plans / "broken.json").write_text("{")
    found = module._plan_facts(tmp_path / "plans")["tensorrt-rtx"]
    assert found["unet"]["sha256"] == "ab"
    assert found["broken"]["sha256"] is None


def test_commit_facts_tell_changes(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.invalid"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    assert commit_facts(tmp_path) == {"sha": None, "dirty": None}
    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    clean = commit_facts(tmp_path)
    assert len(clean["sha"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "file").write_text("2")
    assert commit_facts(tmp_path) == {"sha": clean["sha"], "dirty": True}
