"""Latency result files with given samples, made without measuring anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from instantrt_bench.latency.summary import BUSY_CPU
from instantrt_bench.results.files import ResultFile, ScenarioResult, SystemResult

SCENARIO = "e2e/steps=10"
RUNTIME = "runtime-onnxruntime"
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def latency_file(
    sessions: Sequence[Sequence[float]],
    *,
    cpu: Sequence[Sequence[float]] | None = None,
    first_minute: float = 0,
    every_minutes: float = 2,
    busy: bool = False,
    system: str = RUNTIME,
    **changes: Any,
) -> ResultFile:
    """One scenario of one system, ``sessions`` of latencies in ms that start at regular minutes."""
    samples = {
        "session": [index for index, session in enumerate(sessions) for _ in session],
        "latency_ms": [ms for session in sessions for ms in session],
        "cpu_ms": [ms for session in cpu or sessions for ms in session],
    }
    starts = [NOON + timedelta(minutes=first_minute + every_minutes * i) for i in range(len(sessions))]
    flags = [BUSY_CPU] if busy else []
    comparison = {
        "sessions": [{"started": start.isoformat()} for start in starts],
        "flags": flags,
        "ratios": {},
    }
    scenario = ScenarioResult(SCENARIO, {"steps": 10}, {system: SystemResult("ok", None, samples, {})}, comparison)
    empty = ResultFile(
        kind="latency",
        created=NOON.isoformat(),
        command="instantrt bench latency",
        machine={"host": "a", "cpu": "Quick 3000", "logical_cpus": 2},
        versions={"numpy": "2.0"},
        threads=1,
        commit={"sha": "0" * 40, "dirty": False},
        bundle={"precision": "fp32", "dims_sha256": "d", "files_sha256": "f", "plans": {}},
        options={"photo": None},
    )
    return replace(empty.with_scenario(scenario), **changes)
