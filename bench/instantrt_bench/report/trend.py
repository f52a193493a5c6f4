"""How figures moved from commit to commit, each machine apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from instantrt_bench.regression.history import Kept
from instantrt_bench.report.charts import Chart, Point, Series, point_chart, system_colour
from instantrt_bench.report.latency import latency_of
from instantrt_bench.report.text import Bounds, Cell, bounds_of, commit_text, interval_text, machine_text, number
from instantrt_bench.results.files import ResultFile

SHORT_SHA = 7
SUMMARIES = {
    "fidelity": (("worst_psnr_db", "Worst PSNR", "dB"), ("worst_latents_error", "Worst error of latents", "relative")),
    "identity": (("identity_delta", "Identity, runtime \u2212 reference", "cosine"),),
}
"""Figures of a file's summary that are followed, by kind: key, title, unit."""


@dataclass
class Panel:
    """One figure: a quantity on one machine over runs, the oldest first."""

    title: str
    unit: str
    runs: list[ResultFile] = field(default_factory=list)
    points: dict[str, list[Point]] = field(default_factory=dict)
    rows: list[list[Cell]] = field(default_factory=list)

    def add(self, run: ResultFile, system: str, value: float, interval: Bounds, doubts: Sequence[str] = ()) -> None:
        """One more point, with its interval and what makes it doubtful. Runs stand side by side."""
        if not self.runs or self.runs[-1] is not run:
            self.runs.append(run)
        bounds, commit, doubt = interval_text(interval), commit_text(run.commit), "; ".join(doubts)
        title = ", ".join(filter(None, (f"{system}: {number(value)} {self.unit} {bounds}", run.created, commit, doubt)))
        hollow = run.commit.get("dirty") is not False
        point = Point(len(self.runs) - 1, value, title, bounds_of(interval), hollow)
        self.points.setdefault(system, []).append(point)
        self.rows.append([run.created, commit, system, value, bounds, doubt])

    def chart(self) -> Chart:
        """A line per system."""
        series = [Series(name, system_colour(name), points) for name, points in self.points.items()]
        names = [str(run.commit.get("sha") or run.created)[:SHORT_SHA] for run in self.runs]
        label = f"{self.title} over {len(self.runs)} runs"
        return point_chart(series, label, ("commit", self.unit), names=names, zero=self.unit == "ms")


def panels(history: Sequence[Kept]) -> list[Panel]:
    """Every quantity of a history, latencies first."""
    latencies: dict[tuple[str, str], Panel] = {}
    others: dict[tuple[str, str], Panel] = {}
    for run in (kept.results for kept in history):
        machine = machine_text(run)
        for scenario in run.scenarios:
            for name, system in scenario.systems.items():
                if latency := latency_of(system):
                    panel = latencies.setdefault((scenario.id, machine), Panel(scenario.id, "ms"))
                    doubts = scenario.comparison.get("flags") or ()
                    panel.add(run, name, latency["p50"], latency.get("median_interval"), doubts)
        for key, title, unit in SUMMARIES.get(run.kind, ()):
            value = run.summary.get(key)
            if isinstance(value, int | float):
                panel = others.setdefault((key, machine), Panel(title, unit))
                panel.add(run, "runtime", value, run.summary.get(f"{key}_interval"))
    return [*latencies.values(), *others.values()]
