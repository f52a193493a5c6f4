"""Identity: how alike the generated face and the photo's are, runtime and reference in pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from instantrt_bench.report.axis import Axis
from instantrt_bench.report.charts import Mark, Point, Row, Series, point_plot, row_chart
from instantrt_bench.report.figures import NOTHING, Cell, bounds_of, figure, folded, notice, number, table
from instantrt_bench.report.markup import Html, join
from instantrt_bench.results.files import ResultFile, ScenarioResult

COLOURS = ("s1", "s4", "s2", "s3", "s5")  # by judge, in the file's order
PLAIN_COMPARISON = ("failures", "within_limits")


def identity_section(results: ResultFile) -> Html:
    """Everything about one identity file."""
    summary = results.summary
    conditions = [s for s in results.scenarios if "conditions_of" in s.parameters]
    cases = [s for s in results.scenarios if "conditions_of" not in s.parameters]
    judges: dict[str, dict[str, Any]] = summary.get("judges") or {}
    failures = summary.get("failures") or {}
    parts = [notice(f"{name}: {'; '.join(map(str, why))}", "bad") for name, why in failures.items()]
    if summary.get("statement"):
        parts.append(notice(summary["statement"]))
    if any(found.get("pairs") for found in judges.values()):
        parts += [difference_figure(results, judges, cases), pair_figure(results, judges, cases)]
    else:
        parts.append(notice("no pair of pictures shows a face, so there is no likeness to plot", "warning"))
    parts.append(_judge_table(results, judges, cases))
    if conditions:
        parts.append(_condition_table(results, conditions))
    return join(*parts)


def difference_figure(results: ResultFile, judges: dict[str, dict[str, Any]], cases: Sequence[ScenarioResult]) -> Html:
    """Runtime minus reference by judge: every pair, their mean, its interval and the margin."""
    margin = results.summary.get("max_delta")
    rows = []
    for name, css in _coloured(judges):
        found = judges[name]
        bounds, delta = bounds_of(found.get("identity_delta_interval")), found.get("identity_delta")
        kind = "independent" if found.get("independent") else "conditions the pictures, biased"
        text = f"{signed(delta)} {signed_interval(bounds)}, n = {found.get('pairs')}, {found.get('verdict')}"
        rows.append(Row(f"{name} ({kind})", text, css, delta, bounds, _differences(cases, name)))
    marks = [Mark(0.0, "same")] + ([] if margin is None else [Mark(-margin, f"margin \u2212{number(margin)}")])
    values = [v for row in rows for v in (*row.samples, *(row.bounds or ()))]
    chart = row_chart(rows, Axis.linear([*values, *(mark.value for mark in marks)]), "cosine", marks)
    note = "Cosine to the photo's face, runtime minus reference. Large dot: mean. Line: its interval. Dots: pairs."
    return figure("Difference in likeness", chart, note, results)


def pair_figure(results: ResultFile, judges: dict[str, dict[str, Any]], cases: Sequence[ScenarioResult]) -> Html:
    """Every pair of pictures: the reference's likeness across, the runtime's up."""
    series = []
    for name, css in _coloured(judges):
        points = [Point(theirs, ours, title) for title, ours, theirs in _pairs(cases, name)]
        series.append(Series(name, css, points, joined=False))
    values = [value for one in series for point in one.points for value in (point.x, point.y)]
    axis = Axis.linear(values)
    plot = point_plot(
        series,
        axis,
        axis,
        label="likeness of the runtime's faces over the reference's",
        y_unit="runtime, cosine to the photo",
        x_unit="reference, cosine to the photo",
        diagonal=True,
    )
    return figure("Likeness in pairs", plot, "On the dashed line both are alike. 1 is the photo's own face.", results)


def _judge_table(results: ResultFile, judges: dict[str, dict[str, Any]], cases: Sequence[ScenarioResult]) -> Html:
    header = ("judge", "independent", "pairs", "runtime", "reference", "difference", "95 % interval", "verdict")
    keys = ("mean_similarity_runtime", "mean_similarity_reference")
    rows: list[list[Cell]] = [
        [
            name,
            "yes" if found.get("independent") else "no",
            f"{found.get('pairs')}",
            *(found.get(key) for key in keys),
            signed(found.get("identity_delta")),
            signed_interval(found.get("identity_delta_interval")),
            str(found.get("verdict")),
        ]
        for name, found in judges.items()
    ]
    parts = [table(header, rows, "judges"), table(("faces and pose", "runtime", "reference"), _faces(results), "faces")]
    scale: list[list[Cell]] = [
        [name, photos, cosine]
        for name, found in judges.items()
        for photos, cosine in (found.get("different_photos") or {}).items()
    ]
    if scale:
        label = "What unlike people look like to each judge"
        parts.append(folded(label, table(("judge", "photos", "cosine"), scale, label)))
    parts.append(folded(f"All {len(cases)} cases", _case_table(cases)))
    return figure("Judges and faces", join(*parts), "Cosines are means over pairs in which both show a face.", results)


def _faces(results: ResultFile) -> list[list[Cell]]:
    detection = results.summary.get("detection") or {}
    landmarks = results.summary.get("landmark_error") or {}
    total = detection.get("cases", 0)
    shares = [f"{detection.get(name, 0)} of {total}" for name in ("runtime", "reference")]
    pose = f"distance from the asked pose, {landmarks.get('unit', 'eye distances')}"
    return [
        ["pictures with a face", *shares],
        [pose, landmarks.get("mean_runtime"), landmarks.get("mean_reference")],
    ]


def _case_table(cases: Sequence[ScenarioResult]) -> Html:
    rows: list[list[Cell]] = []
    for scenario in cases:
        for name, system in scenario.systems.items():
            similar = ", ".join(f"{judge} {number(v[0])}" for judge, v in _similarity(scenario, name).items())
            faces = (system.samples.get("faces") or [None])[0]
            pose = (system.samples.get("landmark_error") or [None])[0]
            status = system.status if system.error is None else f"{system.status}: {system.error}"
            rows.append([scenario.id, name, status, None if faces is None else f"{faces}", similar or None, pose])
    return table(("case", "system", "status", "faces", "cosine to the photo", "pose error"), rows, "cases")


def _condition_table(results: ResultFile, conditions: Sequence[ScenarioResult]) -> Html:
    keys = list(dict.fromkeys(key for s in conditions for key in s.comparison if key not in PLAIN_COMPARISON))
    keys = [key for key in keys if all(isinstance(s.comparison.get(key), int | float | None) for s in conditions)]
    rows: list[list[Cell]] = [
        [
            str(s.parameters["conditions_of"]),
            *(s.comparison.get(key) for key in keys),
            "within limits" if s.comparison.get("within_limits") else "; ".join(map(str, s.comparison["failures"])),
        ]
        for s in conditions
    ]
    listing = table(("photo", *(key.replace("_", " ") for key in keys), "verdict"), rows, "face conditions")
    note = "What runtime and reference tell their networks about the person of a photo, before any picture is made."
    return figure("Face conditions", listing, note, results)


def _coloured(judges: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for index, name in enumerate(judges):
        yield name, COLOURS[index % len(COLOURS)]


def _differences(cases: Sequence[ScenarioResult], judge: str) -> list[float]:
    return [ours - theirs for _, ours, theirs in _pairs(cases, judge)]


def _pairs(cases: Sequence[ScenarioResult], judge: str) -> Iterator[tuple[str, float, float]]:
    """Case, runtime's and reference's cosine, where both show a face."""
    for scenario in cases:
        found = {name: _similarity(scenario, name).get(judge) for name in scenario.systems}
        ours = next((v[0] for name, v in found.items() if name.startswith("runtime-") and v), None)
        theirs = next((v[0] for name, v in found.items() if name.startswith("reference-") and v), None)
        if ours is not None and theirs is not None:
            yield f"{scenario.id}: runtime {number(ours)}, reference {number(theirs)}", ours, theirs


def _similarity(scenario: ScenarioResult, system: str) -> dict[str, list[float]]:
    found: dict[str, list[float]] = scenario.systems[system].samples.get("similarity") or {}
    return found


def signed(value: float | None) -> str:
    """A difference of cosines."""
    return NOTHING if value is None else f"{'+' if value > 0 else ''}{number(value)}"


def signed_interval(bounds: Sequence[float] | None) -> str:
    """Bounds of a difference of cosines."""
    return f"[{signed(bounds[0])}, {signed(bounds[1])}]" if bounds else NOTHING
