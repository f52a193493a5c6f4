"""The whole matrix in one small file to commit: medians, ratios with intervals, growth; and the same as Markdown.

Made from result files, whose raw samples are too large to keep in a source tree.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import geometric_mean
from typing import Any

from instantrt_bench.latency.summary import ratio_to_reference
from instantrt_bench.results.files import ResultFile, ScenarioResult
from instantrt_bench.results.growth import growth_of
from instantrt_bench.results.systems import REFERENCE_EAGER, REFERENCES, RUNTIME_ONNXRUNTIME

SCHEMA = 1
DIGITS = 4
BASELINES = (*REFERENCES, RUNTIME_ONNXRUNTIME)
MEDIAN_COLUMNS = ("p50_ms", "low_ms", "high_ms", "n", "worst_psnr_db", "worst_ssim")
GROWTH_COLUMNS = ("fixed_ms", "slope_ms", "r2", "largest_residual_ms", "share_of_peak_first", "share_of_peak_last")

Row = list[float | None]


def compact(latency: Sequence[ResultFile], figures: Mapping[str, Any]) -> dict[str, Any]:
    """What to keep of a run.

    Args:
        latency: one file per thread count.
        figures: over all benchmarks, as ``bench.json`` has them.
    """
    return {
        "schema": SCHEMA,
        "created": latency[0].created if latency else None,
        **figures,
        "machine": _nameless(figures.get("machine")),
        "versions": {name: version for name, version in latency[0].versions.items() if version} if latency else {},
        "columns": {"medians": MEDIAN_COLUMNS, "ratios": BASELINES, "growth": GROWTH_COLUMNS},
        "latency": {f"threads={results.threads}": _latency(results) for results in latency},
    }


def compact_text(data: Any, depth: int = 0) -> str:
    """JSON with a line for each row of figures."""
    if not isinstance(data, Mapping) or not data:
        return json.dumps(data, allow_nan=False)
    rows = (f"{' ' * (depth + 1)}{json.dumps(key)}: {compact_text(value, depth + 1)}" for key, value in data.items())
    return "{\n" + ",\n".join(rows) + "\n" + " " * depth + "}"


def markdown(data: Mapping[str, Any]) -> str:
    """The same figures as tables."""
    return "\n".join(_page(data)) + "\n"


def _nameless(machine: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a machine is, without the name that it has in its network."""
    return None if machine is None else {key: value for key, value in machine.items() if key != "host"}


def _latency(results: ResultFile) -> dict[str, Any]:
    return {
        "flags": results.summary.get("flags", []),
        "failed": results.summary.get("failed", []),
        "medians": {
            scenario.id: {name: row for name in scenario.systems if (row := _median_row(scenario, name))}
            for scenario in results.scenarios
        },
        "ratios": {scenario.id: _ratio_rows(scenario) for scenario in results.scenarios},
        "growth": _growth_rows(results),
    }


def _median_row(scenario: ScenarioResult, name: str) -> Row | None:
    summary = scenario.systems[name].summary
    latency = summary.get("latency_ms")
    if scenario.systems[name].status != "ok" or not latency:
        return None
    interval = latency["median_interval"]
    figures = (latency["p50"], interval["low"], interval["high"], latency["n"], summary.get("worst_psnr_db"))
    return [*map(_short, figures), _short(summary.get("worst_ssim"), 6)]


def _ratio_rows(scenario: ScenarioResult) -> dict[str, list[Row | None]]:
    """By system of the runtime: its ratio to each of the baselines."""
    times = {name: s.samples["latency_ms"] for name, s in scenario.systems.items() if s.status == "ok" and s.samples}
    runtimes = [name for name in times if name not in REFERENCES]
    return {name: [_ratio(times, baseline, name) for baseline in BASELINES] for name in runtimes}


def _ratio(times: Mapping[str, Sequence[float]], baseline: str, name: str) -> Row | None:
    """Estimate and interval; None where there is nothing to compare."""
    if baseline == name or baseline not in times:
        return None
    interval = ratio_to_reference(times[baseline], times[name])
    return [_short(interval.estimate), _short(interval.low), _short(interval.high)]


def _growth_rows(results: ResultFile) -> dict[str, dict[str, Row]]:
    """By what grows and its unit, then by system."""
    rows: dict[str, dict[str, Row]] = {}
    for growth in growth_of(results):
        line, shares = growth.line, growth.share_of_peak
        figures = [*map(_short, (line.fixed_ms, line.slope_ms)), _short(line.r2, 6), _short(line.largest_residual_ms)]
        per = f"{growth.axis}, ms per {growth.unit}"
        rows.setdefault(per, {})[growth.system] = [*figures, _short(shares[0]), _short(shares[-1])]
    return rows


def _short(value: float | None, digits: int = DIGITS) -> float | None:
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.{digits}g}")


def _page(data: Mapping[str, Any]) -> Iterator[str]:
    machine, commit = data.get("machine") or {}, data.get("commit") or {}
    yield "# The whole matrix\n"
    yield f"* Machine: {machine.get('cpu')}, {machine.get('logical_cpus')} logical CPUs, {machine.get('system')}"
    changes = " with uncommitted changes" if commit.get("dirty") else ""
    yield f"* Commit: {commit.get('sha') or 'none'}{changes}; {data['created']}"
    seconds = data.get("seconds") or {}
    yield f"* Took {sum(seconds.values()) / 60:.0f} minutes: " + ", ".join(f"{n} {s:.0f} s" for n, s in seconds.items())
    yield "* Versions: " + ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    for threads, latency in data["latency"].items():
        yield from _section(threads, latency)


def _section(threads: str, latency: Mapping[str, Any]) -> Iterator[str]:
    yield f"\n## Latency, {threads}\n"
    yield "Median in ms, then how many times faster than `reference-eager` with the 95 % interval.\n"
    systems = list(dict.fromkeys(name for rows in latency["medians"].values() for name in rows))
    names = _request_names(list(latency["medians"]))
    yield from _table(["request", *systems], ([name, *_cells(latency, id_, systems)] for id_, name in names.items()))
    notes = [f"* {note}" for note in (*latency["flags"], *latency["failed"])]
    yield from ["", *notes] if notes else []
    means = list(_geometric_means(latency["ratios"]))
    if means:
        yield "\nGeometric mean over all requests, baseline over system:\n"
        yield from _table(["system", *BASELINES], means)
    yield "\nGrowth: least squares; of the peak: denoising at the first and at the last value.\n"
    header = ["system", "grows with", "fixed ms", "slope", "r\u00b2", "largest residual ms", "of the peak"]
    yield from _table(header, _growth_cells(latency["growth"]))


def _request_names(ids: Sequence[str]) -> dict[str, str]:
    """What tells each request from the others, by its id."""
    parts = {id_: id_.split("/") for id_ in ids}
    common = set.intersection(*map(set, parts.values())) if len(ids) > 1 else set()
    return {id_: ", ".join(p.replace("=", " ") for p in own if p not in common) for id_, own in parts.items()}


def _cells(latency: Mapping[str, Any], scenario: str, systems: Sequence[str]) -> Iterator[str]:
    baseline = BASELINES.index(REFERENCE_EAGER)
    for name in systems:
        row = latency["medians"][scenario].get(name)
        ratio = latency["ratios"][scenario].get(name, [None] * len(BASELINES))[baseline]
        text = "" if row is None else f"{row[0]:g}"
        yield text if ratio is None else f"{text}, **{ratio[0]:.2f}\u00d7** [{ratio[1]:.2f}, {ratio[2]:.2f}]"


def _geometric_means(ratios: Mapping[str, Mapping[str, Sequence[Row | None]]]) -> Iterator[list[str]]:
    for name in dict.fromkeys(name for rows in ratios.values() for name in rows):
        cells = [name]
        for column in range(len(BASELINES)):
            found = [row[name][column] for row in ratios.values() if name in row]
            estimates = [estimate for ratio in found if ratio is not None for estimate in ratio[:1] if estimate]
            cells.append(f"{geometric_mean(estimates):.2f}" if estimates else "")
        yield cells


def _growth_cells(growth: Mapping[str, Mapping[str, Row]]) -> Iterator[list[str]]:
    for per, rows in growth.items():
        for name, (*figures, first, last) in rows.items():
            shares = "" if first is None or last is None else f"{100 * first:.0f} to {100 * last:.0f} %"
            yield [name, per, *(f"{figure:g}" for figure in figures if figure is not None), shares]


def _table(header: Sequence[str], rows: Iterable[list[str]]) -> Iterator[str]:
    for cells in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(cells)} |"
