"""A folder of result files, one per run, whose names sort by time and say the commit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instantrt_bench.results.files import ResultError, ResultFile, read_results

SHA_DIGITS = 10


@dataclass(frozen=True)
class Kept:
    """One file of a history."""

    path: Path
    results: ResultFile


def keep(results: ResultFile, folder: Path) -> Path:
    """Write results into a history; returns the file. The same results are kept once."""
    stamp = results.created.replace(":", "").replace("-", "").replace("+0000", "Z")
    sha, dirty = results.commit.get("sha"), results.commit.get("dirty")
    commit = (sha or "no-commit")[:SHA_DIGITS] + ("-dirty" if dirty else "")
    path = folder / f"{stamp}_{results.kind}_{commit}.json"
    number = 2
    while path.exists() and read_results(path) != results:
        path = folder / f"{stamp}_{results.kind}_{commit}_{number}.json"
        number += 1
    results.write(path)
    return path


def read_history(folder: Path) -> list[Kept]:
    """The results in a folder, oldest first.

    Raises:
        ResultError: there is no such folder, or a file in it is damaged.
    """
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        hint = "`instantrt bench history FOLDER --add FILE` makes one"
        raise ResultError(f"{folder} is not a folder", found=found, hint=hint)
    kept = [Kept(path, read_results(path)) for path in sorted(folder.glob("*.json"))]
    return sorted(kept, key=lambda one: (one.results.created, one.path.name))


def trend(history: list[Kept], text: str | None = None) -> Iterator[dict[str, Any]]:
    """One row per file, scenario and system, oldest first: where from, median latency, ratio to the eager reference.

    Args:
        history: what :func:`read_history` gave.
        text: only scenarios whose id contains it.
    """
    for one in history:
        results = one.results
        for scenario in results.scenarios:
            if text is not None and text not in scenario.id:
                continue
            for name, system in scenario.systems.items():
                latency = system.summary.get("latency_ms") or {}
                yield {
                    "file": one.path.name,
                    "kind": results.kind,
                    "created": results.created,
                    "commit": results.commit.get("sha"),
                    "dirty": results.commit.get("dirty"),
                    "cpu": results.machine.get("cpu"),
                    "gpu": results.machine.get("gpu"),
                    "scenario": scenario.id,
                    "system": name,
                    "status": system.status,
                    "latency_ms_p50": latency.get("p50"),
                    "latency_ms_interval": latency.get("median_interval"),
                    "ratio_eager": (scenario.comparison.get("ratios") or {}).get(name),
                }
