"""How figures moved from commit to commit, each machine apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from instantrt_bench.regression.history import Kept, trend
from instantrt_bench.report.axis import Axis
from instantrt_bench.report.charts import Point, Series, point_plot
from instantrt_bench.report.figures import (
    Cell,
    bounds_of,
    commit_text,
    figure,
    folded,
    interval,
    machine_text,
    notice,
    number,
    system_class,
    table,
)
from instantrt_bench.report.markup import Html, join
from instantrt_bench.results.files import ResultFile

SHORT_SHA = 7
SUMMARIES = {
    "fidelity": (("worst_psnr_db", "Worst PSNR", "dB"), ("worst_latents_error", "Worst error of latents", "relative")),
    "identity": (("identity_delta", "Identity, runtime \u2212 reference", "cosine"),),
}
"""Figures of a file's summary that are followed, by kind: key, title, unit."""


@dataclass
class Panel:
    """One figure: a quantity on one machine over runs."""

    title: str
    unit: str
    runs: list[ResultFile] = field(default_factory=list)
    series: dict[str, list[Point]] = field(default_factory=dict)
    rows: list[list[Cell]] = field(default_factory=list)

    def column(self, run: ResultFile) -> int:
        """Where the run stands across; a new run stands right of all others."""
        if not self.runs or self.runs[-1] is not run:
            self.runs.append(run)
        return len(self.runs) - 1

    def add(
        self,
        run: ResultFile,
        name: str,
        value: float,
        found: Mapping[str, Any] | Sequence[float] | None,
        doubts: Sequence[str] = (),
    ) -> None:
        """One more point of a series, with its interval and what makes it doubtful."""
        text = "; ".join([f"{run.created} {commit_text(run.commit)}", *doubts])
        title = f"{name}: {number(value)} {self.unit} {interval(found) if found else ''}, {text}"
        hollow = run.commit.get("dirty") is not False
        point = Point(self.column(run), value, title, bounds_of(found), hollow)
        self.series.setdefault(name, []).append(point)
        self.rows.append([run.created, commit_text(run.commit), name, value, interval(found), "; ".join(doubts)])


def trend_section(history: Sequence[Kept]) -> Html:
    """Every panel of a history, oldest run left."""
    if not history:
        return notice("the history folder is empty")
    panels: dict[tuple[str, ...], Panel] = {}
    for kept in history:
        _add_latency(panels, kept)
    for kept in history:
        _add_summary(panels, kept.results)
    shown = [_panel_figure(panel) for panel in panels.values() if panel.series]
    return join(*shown) if shown else notice("no run of the history has figures to follow")


def _add_latency(panels: dict[tuple[str, ...], Panel], kept: Kept) -> None:
    run, machine = kept.results, machine_text(kept.results)
    for row in trend([kept]):
        if row["latency_ms_p50"] is None:
            continue
        panel = panels.setdefault((row["scenario"], machine), Panel(row["scenario"], "ms"))
        scenario = run.scenario(row["scenario"])
        doubts = [] if scenario is None else scenario.comparison.get("flags") or []
        panel.add(run, row["system"], row["latency_ms_p50"], row["latency_ms_interval"], doubts)


def _add_summary(panels: dict[tuple[str, ...], Panel], run: ResultFile) -> None:
    for key, title, unit in SUMMARIES.get(run.kind, ()):
        value = run.summary.get(key)
        if isinstance(value, int | float):
            panel = panels.setdefault((key, machine_text(run)), Panel(title, unit))
            panel.add(run, "runtime", value, run.summary.get(f"{key}_interval"))


def _panel_figure(panel: Panel) -> Html:
    points = [point for series in panel.series.values() for point in series]
    values = [value for point in points for value in (point.y, *(point.bounds or ()))]
    series = [Series(name, _css(name), found) for name, found in panel.series.items()]
    newest = panel.runs[-1]
    plot = point_plot(
        series,
        Axis(-0.3, max(len(panel.runs) - 1, 0) + 0.3, ()),
        Axis.linear(values, zero=panel.unit == "ms"),
        label=f"{panel.title} over {len(panel.runs)} runs",
        y_unit=panel.unit,
        x_labels=[_short(run) for run in panel.runs],
    )
    header = ("created", "commit", "system", panel.unit, "95 % interval", "caution")
    listing = folded("All runs", table(header, panel.rows, f"runs of {panel.title}"))
    note = (
        f"{len(panel.runs)} {'run' if len(panel.runs) == 1 else 'runs'} on {machine_text(newest)}. Hollow: measured "
        "with uncommitted changes, or on no known commit. The command is the newest run's."
    )
    return figure(panel.title, join(plot, listing), note, newest)


def _css(name: str) -> str:
    return "s1" if name == "runtime" else system_class(name)


def _short(run: ResultFile) -> str:
    return str(run.commit.get("sha") or run.created)[:SHORT_SHA]
