"""Fidelity: errors of networks, of latents after every network call, and of pictures, against their limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from instantrt_bench.report.axis import Axis
from instantrt_bench.report.charts import Mark, Point, Row, Series, point_plot, row_chart
from instantrt_bench.report.figures import Cell, figure, folded, notice, number, ssim_text, table
from instantrt_bench.report.markup import Html, join
from instantrt_bench.results.files import ResultFile, ScenarioResult

SMALLEST_ERROR = 1e-9  # zero has no place on a logarithmic axis
WORST, OTHERS = "s4", "s0 thin"


def fidelity_section(results: ResultFile) -> Html:
    """Everything about one fidelity file."""
    networks = [s for s in results.scenarios if "network" in s.parameters]
    cases = [s for s in results.scenarios if "network" not in s.parameters]
    compared = [s for s in cases if s.comparison.get("psnr_db") is not None]
    failed = [notice(f"{s.id}: {'; '.join(_failures(s))}", "bad") for s in results.scenarios if _failures(s)]
    parts = [*failed]
    parts.append(network_figure(results, networks) if networks else notice("no network was compared"))
    if compared:
        parts += [step_figure(results, compared), picture_figure(results, cases)]
    else:
        parts.append(notice("no pictures were compared"))
    return join(*parts)


def network_figure(results: ResultFile, networks: Sequence[ScenarioResult]) -> Html:
    """The largest relative error of each network, beside its limit."""
    rows, listing = [], list[list[Cell]]()
    for scenario in networks:
        comparison, name = scenario.comparison, str(scenario.parameters["network"])
        error, within = comparison.get("relative_error"), comparison.get("within_limits")
        limit = _limit(scenario, "relative_error")
        grey = error is not None and limit is not None and error > limit
        fine = "within its limit in grey levels" if grey else "within limits"
        verdict = fine if within else "beyond limits" if error is not None else "failed"
        text = f"{number(error)} ({verdict})"
        drawn = None if error is None else max(error, SMALLEST_ERROR)
        rows.append(Row(name, text, "s1" if within else WORST, drawn))
        draws = scenario.parameters.get("draws")
        listing.append([name, error, limit, str(draws), comparison.get("against"), verdict])
    limits = sorted({value for s in networks if (value := _limit(s, "relative_error")) is not None})
    errors = [row.value for row in rows if row.value is not None]
    chart = row_chart(rows, Axis.logarithmic([*errors, *limits]), "largest relative error", _marks(limits))
    header = ("network", "relative error", "limit", "draws", "against", "verdict")
    note = "Each network alone, on random inputs. Pictures have a limit in grey levels of their own."
    return figure("Networks", join(chart, folded("All figures", table(header, listing, "networks"))), note, results)


def step_figure(results: ResultFile, cases: Sequence[ScenarioResult]) -> Html:
    """The relative error of the latents after every network call, one line per case, the worst case named."""
    worst = max(cases, key=_latents_error)
    ordered = [s for s in cases if s is not worst] + [worst]
    series = []
    for scenario in ordered:
        errors = scenario.comparison.get("latents_relative_error_per_step") or []
        points = [Point(call, max(e, SMALLEST_ERROR)) for call, e in enumerate(errors, 1) if e is not None]
        label = f"worst: {scenario.id}" if scenario is worst else "other cases"
        series.append(Series(label, WORST if scenario is worst else OTHERS, points, dots=False))
    values = [point.y for one in series for point in one.points]
    limits = sorted({value for s in cases if (value := _limit(s, "latents_error")) is not None})
    plot = point_plot(
        series,
        Axis.linear([1.0, *(point.x for one in series for point in one.points)]),
        Axis.logarithmic([*values, *limits]),
        label=f"error of the latents after every network call of {len(cases)} cases",
        y_unit="relative error",
        x_unit="network call",
        marks=_marks(limits),
    )
    return figure("Latents, call by call", plot, f"{len(cases)} cases.", results)


def picture_figure(results: ResultFile, cases: Sequence[ScenarioResult]) -> Html:
    """PSNR by sampler, one dot per case, and every case as a table."""
    by_sampler: dict[str, list[float]] = {}
    for scenario in cases:
        if (psnr := scenario.comparison.get("psnr_db")) is not None:
            by_sampler.setdefault(str(scenario.parameters.get("sampler")), []).append(psnr)
    rows = [
        Row(name, f"worst {number(min(found))} dB, n = {len(found)}", "s1", min(found), samples=found)
        for name, found in by_sampler.items()
    ]
    limits = sorted({value for s in cases if (value := _limit(s, "psnr_db")) is not None})
    values = [value for found in by_sampler.values() for value in found]
    chart = row_chart(rows, Axis.linear([*values, *limits]), "PSNR in dB, higher is closer", _marks(limits))
    header = ("case", "PSNR dB", "SSIM", "LPIPS", "latents", "verdict")
    listing = folded(f"All {len(cases)} cases", table(header, [_case_row(s) for s in cases], "cases"))
    missing = results.summary.get("lpips_missing")
    note = "Large dot: the worst case of the sampler." + (f" No LPIPS: {missing}" if missing else "")
    return figure("Pictures", join(chart, listing), note, results)


def _case_row(scenario: ScenarioResult) -> list[Cell]:
    found = scenario.comparison
    ssim = found.get("ssim")
    verdict = "within limits" if found.get("within_limits") else "; ".join(_failures(scenario)) or "not judged"
    figures = (found.get("lpips"), found.get("latents_relative_error"))
    return [scenario.id, found.get("psnr_db"), ssim_text(ssim), *figures, verdict]


def _failures(scenario: ScenarioResult) -> list[str]:
    errors = [f"{name} {s.status}: {s.error}" for name, s in scenario.systems.items() if s.status != "ok"]
    return [*map(str, scenario.comparison.get("failures") or ()), *errors]


def _limit(scenario: ScenarioResult, name: str) -> float | None:
    found: dict[str, Any] = scenario.comparison.get("limits") or {}
    return found.get(name)


def _latents_error(scenario: ScenarioResult) -> float:
    """Of the whole case; not finite counts as infinite."""
    error = scenario.comparison.get("latents_relative_error")
    return float("inf") if error is None else float(error)


def _marks(limits: Sequence[float]) -> list[Mark]:
    return [Mark(limit, f"limit {number(limit)}") for limit in limits]
