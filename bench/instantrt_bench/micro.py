"""pytest-benchmark's JSON as a result file, so that ``compare`` and ``history`` treat it as all others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instantrt_bench.results import ResultError, ResultFile, ScenarioResult, SystemResult, read_results
from instantrt_bench.statistics import summarise

SYSTEM = "runtime"


def read_any_results(path: Path) -> ResultFile:
    """A result file, or what pytest-benchmark saved.

    Raises:
        ResultError: it is missing, damaged, or without raw samples.
    """
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
        scenarios=tuple(_scenario(benchmark) for benchmark in data["benchmarks"]),
    )


def _scenario(benchmark: Mapping[str, Any]) -> ScenarioResult:
    samples_ms = [1e3 * seconds for seconds in benchmark["stats"]["data"]]
    system = SystemResult("ok", samples={"latency_ms": samples_ms}, summary={"latency_ms": summarise(samples_ms)})
    return ScenarioResult(f"micro/{benchmark['name']}", dict(benchmark["params"] or {}), {SYSTEM: system})
