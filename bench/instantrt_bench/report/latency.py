"""Latency: every system against the baseline, the ratios, what the time goes to, and how near the peak it comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from instantrt_bench.report.charts import Chart, Part, Row, row_chart, system_colour
from instantrt_bench.report.text import Cell, bounds_of, interval_text, number
from instantrt_bench.results.files import ResultFile, ScenarioResult, SystemResult
from instantrt_bench.results.systems import REFERENCES

PHOTO, TEXT, LOOP, VAE, ENCODE, OTHER = GROUPS = (
    ("photo and face", "s1"),
    ("text, conditioning, noise", "s2"),
    ("denoising", "s4"),
    ("VAE", "s3"),
    ("encoding", "s5"),
    ("other", "s0"),
)
RUNTIME_STAGES = {
    "photo": PHOTO,
    "face": PHOTO,
    **dict.fromkeys(("load", "text", "conditioning", "noise", "upload"), TEXT),
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
FIGURES = {
    "p90 ms": ("latency_ms", "p90", 1),
    "p99 ms": ("latency_ms", "p99", 1),
    "mean ms": ("latency_ms", "mean", 1),
    "pictures/s": ("pictures_per_s", None, 1),
    "step ms": ("call_ms", "p50", 1),
    "host \u00b5s/step": ("host_overhead_us_per_call", "p50", 1),
    "cold start s": ("cold_start_ms", "total_ms", 1e3),
    "peak host MB": ("peak_host_bytes", None, 1e6),
    "peak device MB": ("peak_device_bytes", None, 1e6),
    "energy J": ("energy_mj_per_request", None, 1e3),
    "worst PSNR dB": ("worst_psnr_db", None, 1),
    "worst SSIM": ("worst_ssim", None, 1),
}
"""Rows of the table: a figure of the summary, and what it is divided by."""
REACH = 1.25  # samples beyond so many times the slowest median are not drawn


def ratio_chart(results: ResultFile) -> Chart | None:
    """How many times faster than the baseline, by scenario, on a logarithmic axis; None without a baseline."""
    rows = []
    for scenario in results.scenarios:
        for name, ratio in (scenario.comparison.get("ratios") or {}).items():
            text = f"{number(ratio['estimate'])}\u00d7 {interval_text(ratio)}, n = {ratio['samples']}"
            label = f"{name}, {scenario.id}"
            rows.append(Row(label, text, system_colour(name), dot=ratio["estimate"], bounds=bounds_of(ratio)))
    return row_chart(rows, "reference-eager / system", marks={"as fast: 1": 1.0}, log=True) if rows else None


def latency_chart(scenario: ScenarioResult) -> tuple[Chart | None, int]:
    """Bars of the medians with intervals and samples, and how many samples are too slow to be drawn."""
    summaries = {name: latency for name, system in scenario.systems.items() if (latency := latency_of(system))}
    if not summaries:
        return None, 0
    reach = REACH * max(latency["p50"] for latency in summaries.values())
    rows, beyond = [], 0
    for name, latency in summaries.items():
        ratio, bounds = _ratio(scenario, name), latency.get("median_interval")
        text = f"{number(latency['p50'])} ms {interval_text(bounds)}, n = {latency['n']}"
        text += f", {number(ratio['estimate'])}\u00d7" if ratio else ""
        samples = scenario.systems[name].samples.get("latency_ms", ())
        drawn = [ms for ms in samples if ms <= reach]
        beyond += len(samples) - len(drawn)
        bar = Part("", latency["p50"], system_colour(name))
        rows.append(Row(name, text, bar.colour, [bar], bounds=bounds_of(bounds), samples=drawn))
    return row_chart(rows, "ms"), beyond


def latency_table(scenario: ScenarioResult) -> tuple[list[str], list[list[Cell]]]:
    """Header and rows of everything measured: a row per figure, a column per system."""
    systems = scenario.systems
    times = [latency_of(system) for system in systems.values()]
    ratios = [_ratio(scenario, name) for name in systems]
    rows: list[list[Cell]] = [
        ["status", *(system.status for system in systems.values())],
        ["n", *(latency.get("n", 0) for latency in times)],
        ["p50 ms", *(latency.get("p50") for latency in times)],
        ["95 % interval", *(interval_text(latency.get("median_interval")) for latency in times)],
        ["baseline / system", *(f"{number(r['estimate'])} {interval_text(r)}" if r else None for r in ratios)],
        *([title, *(_figure(system, *where) for system in systems.values())] for title, where in FIGURES.items()),
    ]
    return ["figure", *(f">{name}" for name in systems)], rows


def stage_chart(scenario: ScenarioResult) -> Chart | None:
    """Stacked bars of the stages' medians, in groups that both pipelines have; None if no stage was measured."""
    rows = []
    for name, system in scenario.systems.items():
        if parts := stage_groups(name, system.summary.get("stages_ms") or {}):
            text = ", ".join(f"{part.label} {number(part.value)}" for part in parts)
            rows.append(Row(name, f"{text} ms", parts=parts))
    return row_chart(rows, "ms") if rows else None


def stage_rows(scenario: ScenarioResult) -> Iterator[list[Cell]]:
    """Every stage of every system."""
    for name, system in scenario.systems.items():
        for stage, summary in (system.summary.get("stages_ms") or {}).items():
            yield [name, stage, summary["p50"], summary["p90"], summary["n"]]


def stage_groups(system: str, stages: Mapping[str, Mapping[str, float]]) -> list[Part]:
    """Sums of the stages' medians in ms, by group, in the order of the pipeline; unknown stages are "other"."""
    known = REFERENCE_STAGES if system in REFERENCES else RUNTIME_STAGES
    sums = dict.fromkeys(GROUPS, 0.0)
    for name, summary in stages.items():
        sums[known.get(name, OTHER)] += summary["p50"]
    return [Part(label, value, colour) for (label, colour), value in sums.items() if value > 0]


def roofline_rows(scenario: ScenarioResult) -> Iterator[list[Cell]]:
    """Every stage of every system whose cost is known."""
    for name, system in scenario.systems.items():
        for part, roof in (system.summary.get("roofline") or {}).items():
            reached = (roof["ms"], roof["gflops_per_s"], roof["gbytes_per_s"], roof["flops_per_byte"])
            share = _share_text(roof.get("share_of_peak"), roof.get("bound"))
            source = (roof.get("peak") or {}).get("source", "not known")
            yield [f"{name}, {part}", roof["flops"] / 1e9, roof["bytes"] / 1e6, *reached, share, source]


def micro_rows(results: ResultFile) -> Iterator[list[Cell]]:
    """Times of the runtime's small parts."""
    for scenario in results.scenarios:
        for system in scenario.systems.values():
            latency = latency_of(system)
            yield [scenario.id, latency.get("n", 0), *(latency.get(key) for key in ("p50", "p90", "p99"))]


def latency_of(system: SystemResult) -> dict[str, Any]:
    """The summary of a system's latency; empty if it gave none."""
    return system.summary.get("latency_ms") or {}


def _ratio(scenario: ScenarioResult, name: str) -> dict[str, Any] | None:
    return (scenario.comparison.get("ratios") or {}).get(name)


def _figure(system: SystemResult, key: str, part: str | None, divisor: float) -> float | None:
    value = system.summary.get(key)
    if part is not None:
        value = (value or {}).get(part)
    return None if value is None else value / divisor


def _share_text(share: float | None, bound: str | None) -> str:
    """Of the peak; more than all of it means that the peak was measured or given too low."""
    if share is None:
        return "not known"
    return f"{100 * share:.0f} % ({bound}){', so the peak is too low' if share > 1 else ''}"
