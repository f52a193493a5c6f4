"""Latency: every system against the baseline, the ratios, what the time goes to, and how near the peak it comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from instantrt_bench.report.axis import Axis
from instantrt_bench.report.charts import Mark, Part, Row, Stack, row_chart, stack_chart
from instantrt_bench.report.figures import (
    Cell,
    bounds_of,
    figure,
    folded,
    interval,
    notice,
    number,
    system_class,
    table,
)
from instantrt_bench.report.markup import Html, join
from instantrt_bench.results.files import ResultFile, ScenarioResult, SystemResult

PHOTO, TEXT, LOOP, VAE, ENCODE, OTHER = (
    ("photo and face", "p1"),
    ("text, conditioning, noise", "p2"),
    ("denoising", "p3"),
    ("VAE", "p4"),
    ("encoding", "p5"),
    ("other", "p6"),
)
RUNTIME_STAGES = {
    "photo": PHOTO,
    "face": PHOTO,
    "load": TEXT,
    "text": TEXT,
    "conditioning": TEXT,
    "noise": TEXT,
    "upload": TEXT,
    "denoise": LOOP,
    "decode": VAE,
    "download": ENCODE,
    "encode": ENCODE,
}
REFERENCE_STAGES = {
    "decode and face": PHOTO,
    "prepare": TEXT,
    "denoise": LOOP,
    "decode": VAE,  # of latents; the runtime's stage of that name decodes the photo
    "vae": VAE,
    "encode": ENCODE,
}
COLUMNS = (
    "system",
    "status",
    "n",
    "p50 ms",
    "95 % interval",
    "p90 ms",
    "p99 ms",
    "mean ms",
    "pictures/s",
    "step ms",
    "host \u00b5s/step",
    "baseline / system",
    "cold start s",
    "peak host MB",
    "peak device MB",
    "energy J",
    "worst PSNR dB",
)


def latency_sections(results: ResultFile) -> tuple[Html, Html]:
    """Everything about one latency file: latency against the baseline, and stages."""
    scenarios = results.scenarios
    if not scenarios:
        empty = notice("no scenario was finished", "warning")
        return empty, empty
    ratios = ratio_figure(results)
    return (
        join(ratios, *(latency_figure(results, scenario) for scenario in scenarios)),
        join(*(stage_figure(results, scenario) for scenario in scenarios)),
    )


def latency_figure(results: ResultFile, scenario: ScenarioResult) -> Html:
    """Bars of the medians with their intervals and samples, and the table with everything else."""
    measured = [(name, system) for name, system in scenario.systems.items() if latency_of(system)]
    rows = [_latency_row(name, system, scenario) for name, system in measured]
    values = [value for row in rows for value in (row.value, *(row.bounds or ())) if value is not None]
    axis = Axis.linear(values, zero=True)
    beyond = sum(sample > axis.high for row in rows for sample in row.samples)
    note = (
        "Bar: median, photo in to encoded picture out. Thin line: its interval. Dots: single runs"
        f"{f', {beyond} of them slower than the axis reaches' if beyond else ''}."
    )
    chart = row_chart(rows, axis, "ms", ()) if rows else notice("no system gave a time", "bad")
    details = table(COLUMNS, [_table_row(name, system, scenario) for name, system in scenario.systems.items()], "times")
    return figure(scenario.id, join(*_doubts(scenario), chart, details), note, results)


def ratio_figure(results: ResultFile) -> Html:
    """How many times faster than the baseline, by scenario, on a logarithmic axis."""
    rows = list(_ratio_rows(results.scenarios))
    if not rows:
        return notice("there is no ratio: the baseline, reference-eager, was not measured beside another system")
    values = [value for row in rows for value in (row.value, *(row.bounds or ())) if value is not None]
    axis = Axis.logarithmic([1.0, *values])
    note = "Median latency of reference-eager over that of the system: above 1, the system is faster. Line: interval."
    chart = row_chart(rows, axis, "reference-eager / system", [Mark(1.0, "as fast")])
    return figure("Against the baseline", chart, note, results)


def stage_figure(results: ResultFile, scenario: ScenarioResult) -> Html:
    """Stacked bars of the stages' medians, in groups that both pipelines have, and all stages as a table."""
    measured = [(name, stages) for name, system in scenario.systems.items() if (stages := stages_of(system))]
    if not measured:
        return figure(scenario.id, notice("no stages were measured"), "", results)
    stacks = [_stack(name, stages) for name, stages in measured]
    axis = Axis.linear([sum(part.value for part in stack.parts) for stack in stacks], zero=True)
    rows: list[list[Cell]] = [
        [name, stage, found["p50"], found["p90"], f"{found['n']}"]
        for name, stages in measured
        for stage, found in stages.items()
    ]
    listing = folded("All stages", table(("system", "stage", "p50 ms", "p90 ms", "n"), rows, "stages"))
    note = "Medians of each stage; they need not add up to the median of the whole."
    return figure(scenario.id, join(stack_chart(stacks, axis, "ms"), listing, _roofline(scenario)), note, results)


def latency_of(system: SystemResult) -> dict[str, Any]:
    """The summary of a system's latency; empty if it gave none."""
    found: dict[str, Any] = system.summary.get("latency_ms") or {}
    return found


def stages_of(system: SystemResult) -> dict[str, Any]:
    """Summaries of a system's stages by name."""
    found: dict[str, Any] = system.summary.get("stages_ms") or {}
    return found


def stage_groups(system: str, stages: Mapping[str, Mapping[str, float]]) -> list[Part]:
    """Sums of the stages' medians in ms, by group, in the order of the pipeline; unknown stages are "other"."""
    known = REFERENCE_STAGES if system.startswith("reference-") else RUNTIME_STAGES
    sums = dict.fromkeys((PHOTO, TEXT, LOOP, VAE, ENCODE, OTHER), 0.0)
    for name, found in stages.items():
        sums[known.get(name, OTHER)] += found["p50"]
    return [Part(label, value, css) for (label, css), value in sums.items() if value > 0]


def _stack(name: str, stages: Mapping[str, Mapping[str, float]]) -> Stack:
    parts = stage_groups(name, stages)
    text = ", ".join(f"{part.label} {number(part.value)}" for part in parts)
    return Stack(name, f"{text} ms", parts)


def _latency_row(name: str, system: SystemResult, scenario: ScenarioResult) -> Row:
    latency = latency_of(system)
    bounds, ratio = latency.get("median_interval"), _ratio(scenario, name)
    text = f"{number(latency['p50'])} ms {interval(bounds)}, n = {latency['n']}"
    if ratio is not None:
        text += f", {number(ratio['estimate'])}\u00d7"
    samples = system.samples.get("latency_ms", ())
    return Row(name, text, system_class(name), latency["p50"], bounds_of(bounds), samples, bar=True)


def _ratio_rows(scenarios: Sequence[ScenarioResult]) -> Iterator[Row]:
    for scenario in scenarios:
        for name, ratio in (scenario.comparison.get("ratios") or {}).items():
            text = f"{number(ratio['estimate'])}\u00d7 {interval(ratio)}, n = {ratio['samples']}"
            label = f"{name}, {scenario.id}"
            yield Row(label, text, system_class(name), ratio["estimate"], bounds_of(ratio))


def _ratio(scenario: ScenarioResult, name: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = (scenario.comparison.get("ratios") or {}).get(name)
    return found


def _table_row(name: str, system: SystemResult, scenario: ScenarioResult) -> list[Cell]:
    summary, latency, ratio = system.summary, latency_of(system), _ratio(scenario, name)
    return [
        name,
        system.status,
        str(latency["n"]) if latency else "0",
        latency.get("p50"),
        interval(latency.get("median_interval")),
        *(latency.get(key) for key in ("p90", "p99", "mean")),
        summary.get("pictures_per_s"),
        (summary.get("call_ms") or {}).get("p50"),
        (summary.get("host_overhead_us_per_call") or {}).get("p50"),
        None if ratio is None else f"{number(ratio['estimate'])} {interval(ratio)}",
        _scaled((summary.get("cold_start_ms") or {}).get("total_ms"), 1e3),
        _scaled(summary.get("peak_host_bytes"), 1e6),
        _scaled(summary.get("peak_device_bytes"), 1e6),
        _scaled(summary.get("energy_mj_per_request"), 1e3),
        summary.get("worst_psnr_db"),
    ]


def _doubts(scenario: ScenarioResult) -> Iterator[Html]:
    """What failed, and what makes the times doubtful."""
    for name, system in scenario.systems.items():
        if system.status == "failed":
            yield notice(f"{name}: {system.error or 'no reason given'}", "bad")
        elif system.status == "interrupted":
            yield notice(f"{name} was interrupted; what it measured until then is shown", "warning")
    for flag in scenario.comparison.get("flags") or ():
        yield notice(flag, "warning")


def _roofline(scenario: ScenarioResult) -> Html | None:
    rows: list[list[Cell]] = []
    for name, system in scenario.systems.items():
        for part, found in (system.summary.get("roofline") or {}).items():
            share = found.get("share_of_peak")
            peak = found.get("peak") or {}
            rows.append(
                [
                    f"{name}, {part}",
                    found["flops"] / 1e9,
                    found["bytes"] / 1e6,
                    found["ms"],
                    found["gflops_per_s"],
                    found["gbytes_per_s"],
                    found["flops_per_byte"],
                    _share_text(share, found.get("bound")),
                    peak.get("source", "not known"),
                ]
            )
    if not rows:
        return None
    header = ("stage", "GFLOP", "MB at least", "ms", "GFLOP/s", "GB/s", "FLOP/byte", "of the peak", "peak from")
    return folded("Roofline", table(header, rows, "roofline"))


def _share_text(share: float | None, bound: str | None) -> str:
    """Of the peak; more than all of it means that the peak was measured or given too low."""
    if share is None:
        return "not known"
    return f"{100 * share:.0f} % ({bound}){', so the peak is too low' if share > 1 else ''}"


def _scaled(value: float | None, divisor: float) -> float | None:
    return None if value is None else value / divisor
