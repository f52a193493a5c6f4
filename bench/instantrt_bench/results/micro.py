"""pytest-benchmark's JSON as a result file, so that ``compare`` and ``history`` treat it as all others.

One file is one session, a process of its own. A folder of them is one result file with all its sessions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from instantrt_bench.results.files import ResultError, ResultFile, ScenarioResult, SystemResult, read_results
from instantrt_bench.results.statistics import summarise

SYSTEM = "runtime"
SAME_IN_A_FOLDER = ("kind", "machine", "versions", "commit")


def read_any_results(path: Path) -> ResultFile:
    """A result file, what pytest-benchmark saved, or a folder of the latter.

    Raises:
        ResultError: it is missing, damaged, or without raw samples; or the files of a folder are of different code.
    """
    if path.is_dir():
        return _folder(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return read_results(path)  # says what is wrong
    if not isinstance(data, dict) or "benchmarks" not in data:
        return read_results(path)
    try:
        return from_pytest_benchmark(data)
    except KeyError as error:
        missing = error.args[0]
        raise ResultError(
            f"{path} lacks {missing!r}",
            found="a file of pytest-benchmark without it",
            hint="save the raw samples with pytest's --benchmark-save-data or --benchmark-json"
            if missing == "data"
            else "save it with pytest-benchmark 5",
        ) from error


def from_pytest_benchmark(data: Mapping[str, Any]) -> ResultFile:
    """Convert what pytest-benchmark's ``--benchmark-json`` wrote.

    Raises:
        KeyError: something is missing, e.g. ``data``, the raw samples.
    """
    machine, commit = data["machine_info"], data["commit_info"]
    cpu = machine["cpu"]
    return ResultFile(
        kind="micro",
        created=data["datetime"],
        command="pytest bench/micro",
        machine={
            "host": machine["node"],
            "cpu": cpu.get("brand_raw"),
            "logical_cpus": cpu.get("count"),
            "system": f"{machine['system']}-{machine['release']}-{machine['machine']}",
            "python": machine["python_version"],
        },
        versions={"pytest-benchmark": data["version"]},
        threads=None,
        commit={"sha": commit.get("id"), "dirty": commit.get("dirty")},
        bundle={},
        options={},
        scenarios=tuple(_scenario(benchmark, data["datetime"]) for benchmark in data["benchmarks"]),
    )


def _scenario(benchmark: Mapping[str, Any], started: str) -> ScenarioResult:
    samples_ms = [1e3 * seconds for seconds in benchmark["stats"]["data"]]
    name, parameters = f"micro/{benchmark['name']}", dict(benchmark["params"] or {})
    return _with_sessions(ScenarioResult(name, parameters), [samples_ms], [started])


def _with_sessions(
    scenario: ScenarioResult, sessions_ms: Sequence[Sequence[float]], started: Sequence[str]
) -> ScenarioResult:
    samples_ms = [ms for session in sessions_ms for ms in session]
    numbers = [number for number, session in enumerate(sessions_ms) for _ in session]
    samples = {"session": numbers, "latency_ms": samples_ms}
    system = SystemResult("ok", samples=samples, summary={"latency_ms": summarise(samples_ms)})
    return replace(scenario, systems={SYSTEM: system}, comparison={"sessions": [{"started": s} for s in started]})


def _folder(path: Path) -> ResultFile:
    files = sorted((read_any_results(file) for file in path.glob("*.json")), key=lambda results: results.created)
    if not files or files[0].kind != "micro":
        found = f"{len(files)} other result files" if files else "no result files"
        raise ResultError(f"{path} holds no results of pytest-benchmark", found=found, hint="name a folder of these")
    for file in files[1:]:
        differing = [name for name in SAME_IN_A_FOLDER if getattr(file, name) != getattr(files[0], name)]
        if differing:
            what, found = f"the files in {path} do not belong together", f"other {', '.join(differing)}"
            raise ResultError(what, found=found, hint="keep sessions of one commit and machine in a folder")
    return replace(files[-1], scenarios=tuple(_all_sessions(scenario, files) for scenario in files[-1].scenarios))


def _all_sessions(scenario: ScenarioResult, files: Sequence[ResultFile]) -> ScenarioResult:
    sessions = [(same, file.created) for file in files if (same := file.scenario(scenario.id)) is not None]
    return _with_sessions(
        scenario,
        [one.systems[SYSTEM].samples["latency_ms"] for one, _ in sessions],
        [created for _, created in sessions],
    )
