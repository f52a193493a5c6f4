"""Fidelity: errors of networks, of latents after every network call, and of pictures, against their limits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from instantrt_bench.report.charts import Chart, Point, Row, Series, point_chart, row_chart
from instantrt_bench.report.text import Cell, number, ssim_text
from instantrt_bench.results.files import ResultFile, ScenarioResult

SMALLEST_ERROR = 1e-9  # zero has no place on a logarithmic axis
FINE, WORST, OTHERS = "s1", "s4", "s0"


def kinds_of(results: ResultFile) -> tuple[list[ScenarioResult], list[ScenarioResult], list[ScenarioResult]]:
    """Networks, cases, and those cases whose pictures were compared."""
    networks = [s for s in results.scenarios if "network" in s.parameters]
    cases = [s for s in results.scenarios if "network" not in s.parameters]
    return networks, cases, [s for s in cases if s.comparison.get("psnr_db") is not None]


def network_chart(networks: Sequence[ScenarioResult]) -> Chart:
    """The largest relative error of each network, beside its limit."""
    rows = []
    for scenario in networks:
        error, within = scenario.comparison.get("relative_error"), scenario.comparison.get("within_limits")
        dot = None if error is None else max(error, SMALLEST_ERROR)
        text = f"{number(error)} ({network_verdict(scenario)})"
        rows.append(Row(str(scenario.parameters["network"]), text, FINE if within else WORST, dot=dot))
    return row_chart(rows, "largest relative error", marks=_limits(networks, "relative_error"), log=True)


def network_rows(networks: Sequence[ScenarioResult]) -> list[list[Cell]]:
    """The same as a table."""
    return [
        [
            *(s.parameters["network"], s.comparison.get("relative_error"), _limit(s, "relative_error")),
            *(s.parameters.get("draws"), s.comparison.get("against"), network_verdict(s)),
        ]
        for s in networks
    ]


def network_verdict(scenario: ScenarioResult) -> str:
    """Pictures have a limit in grey levels, so one beyond the relative limit may be fine."""
    error, limit = scenario.comparison.get("relative_error"), _limit(scenario, "relative_error")
    if not scenario.comparison.get("within_limits"):
        return "failed" if error is None else "beyond limits"
    return "within its limit in grey levels" if error and limit and error > limit else "within limits"


def step_chart(cases: Sequence[ScenarioResult]) -> Chart:
    """The relative error of the latents after every network call, one line per case, the worst case named."""
    worst = max(cases, key=_latents_error)
    series = []
    for scenario in (*(s for s in cases if s is not worst), worst):
        errors = scenario.comparison.get("latents_relative_error_per_call") or []
        points = [Point(call, max(e, SMALLEST_ERROR)) for call, e in enumerate(errors, 1) if e is not None]
        label, colour = (f"worst: {scenario.id}", WORST) if scenario is worst else ("other cases", OTHERS)
        series.append(Series(label, colour, points, dots=False, faint=scenario is not worst))
    label = f"error of the latents after every network call of {len(cases)} cases"
    marks = _limits(cases, "latents_error")
    return point_chart(series, label, ("network call", "relative error"), marks=marks, log=True)


def picture_chart(compared: Sequence[ScenarioResult]) -> Chart:
    """PSNR by sampler, one dot per case, the worst one large."""
    by_sampler: dict[str, list[float]] = {}
    for scenario in compared:
        by_sampler.setdefault(str(scenario.parameters.get("sampler")), []).append(scenario.comparison["psnr_db"])
    rows = [
        Row(name, f"worst {number(min(psnr))} dB, n = {len(psnr)}", FINE, dot=min(psnr), samples=psnr)
        for name, psnr in by_sampler.items()
    ]
    return row_chart(rows, "PSNR in dB, higher is closer", marks=_limits(compared, "psnr_db"))


def case_rows(cases: Sequence[ScenarioResult]) -> Iterator[list[Cell]]:
    """Everything about every pair of pictures."""
    for case in cases:
        compared = case.comparison
        verdict = "within limits" if compared.get("within_limits") else "; ".join(failures(case)) or "not judged"
        figures = (compared.get("lpips"), compared.get("latents_relative_error"))
        yield [case.id, compared.get("psnr_db"), ssim_text(compared.get("ssim")), *figures, verdict]


def failures(scenario: ScenarioResult) -> list[str]:
    """What is beyond its limit, and which system failed."""
    errors = [f"{name} {s.status}: {s.error}" for name, s in scenario.systems.items() if s.status != "ok"]
    return [*map(str, scenario.comparison.get("failures") or ()), *errors]


def _limit(scenario: ScenarioResult, name: str) -> float | None:
    return (scenario.comparison.get("limits") or {}).get(name)


def _limits(scenarios: Sequence[ScenarioResult], name: str) -> dict[str, float]:
    """Every limit that occurs."""
    limits = {limit for scenario in scenarios if (limit := _limit(scenario, name)) is not None}
    return {f"limit: {number(limit)}": limit for limit in sorted(limits)}


def _latents_error(scenario: ScenarioResult) -> float:
    """Of the whole case; not finite counts as infinite."""
    error = scenario.comparison.get("latents_relative_error")
    return float("inf") if error is None else float(error)
