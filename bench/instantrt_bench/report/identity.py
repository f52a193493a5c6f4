"""Identity: how alike the generated face and the photo's are, runtime and reference in pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

from instantrt_bench.report.charts import Chart, Point, Row, Series, point_chart, row_chart
from instantrt_bench.report.text import Cell, bounds_of, interval_text, number, signed
from instantrt_bench.results.files import ResultFile, ScenarioResult

COLOURS = ("s1", "s4", "s2", "s3", "s5")  # by judge, in the file's order


def kinds_of(results: ResultFile) -> tuple[list[ScenarioResult], list[ScenarioResult]]:
    """Face conditions, and cases."""
    conditions = [s for s in results.scenarios if "conditions_of" in s.parameters]
    return conditions, [s for s in results.scenarios if "conditions_of" not in s.parameters]


def difference_chart(results: ResultFile, cases: Sequence[ScenarioResult]) -> Chart:
    """Runtime minus reference by judge: every pair, their mean, its interval and the margin."""
    rows = []
    for (name, judge), colour in zip(judges_of(results).items(), cycle(COLOURS), strict=False):
        interval, delta = judge.get("identity_delta_interval"), judge.get("identity_delta")
        kind = "independent" if judge.get("independent") else "conditions the pictures, biased"
        text = f"{signed(delta)} {interval_text(interval, signed)}, n = {judge.get('pairs')}, {judge.get('verdict')}"
        pairs = [point.y - point.x for point in _pairs(cases, name)]
        rows.append(Row(f"{name} ({kind})", text, colour, dot=delta, bounds=bounds_of(interval), samples=pairs))
    margin = results.summary.get("max_delta")
    marks = {"same: 0": 0.0} | ({} if margin is None else {f"margin: \u2212{number(margin)}": -margin})
    return row_chart(rows, "cosine", marks=marks)


def pair_chart(results: ResultFile, cases: Sequence[ScenarioResult]) -> Chart:
    """Every pair of pictures: the reference's likeness across, the runtime's up."""
    judges = dict(zip(judges_of(results), cycle(COLOURS), strict=False))
    series = [Series(name, colour, [*_pairs(cases, name)], joined=False) for name, colour in judges.items()]
    values = [value for one in series for point in one.points for value in (point.x, point.y)] or [0.0, 1.0]
    alike = Series(
        "both alike", "soft", [Point(end, end) for end in (min(values), max(values))], dots=False, faint=True
    )
    units = ("reference, cosine to the photo", "runtime, cosine to the photo")
    return point_chart([alike, *series], "likeness of the runtime's faces over the reference's", units)


def judge_rows(results: ResultFile) -> Iterator[list[Cell]]:
    """What each judge says of all pairs."""
    for name, judge in judges_of(results).items():
        likeness = (judge.get("mean_similarity_runtime"), judge.get("mean_similarity_reference"))
        difference = (signed(judge.get("identity_delta")), interval_text(judge.get("identity_delta_interval"), signed))
        independent = "yes" if judge.get("independent") else "no"
        yield [name, independent, judge.get("pairs"), *likeness, *difference, str(judge.get("verdict"))]


def face_rows(results: ResultFile) -> list[list[Cell]]:
    """How many pictures show a face, and how far it is from where it was asked for."""
    detection, landmarks = (results.summary.get(key) or {} for key in ("detection", "landmark_error"))
    shares = [f"{detection.get(side, 0)} of {detection.get('cases', 0)}" for side in ("runtime", "reference")]
    pose = f"distance from the asked pose, {landmarks.get('unit', 'eye distances')}"
    means = (landmarks.get("mean_runtime"), landmarks.get("mean_reference"))
    return [["pictures with a face", *shares], [pose, *means]]


def unlike_rows(results: ResultFile) -> list[list[Cell]]:
    """What unlike people look like to each judge."""
    judges = judges_of(results).items()
    return [[name, *pair] for name, judge in judges for pair in (judge.get("different_photos") or {}).items()]


def case_rows(cases: Sequence[ScenarioResult]) -> Iterator[list[Cell]]:
    """What was found in each system's picture of each case."""
    for scenario in cases:
        for name, system in scenario.systems.items():
            similar = ", ".join(f"{judge} {number(v[0])}" for judge, v in _similarity(scenario, name).items())
            faces, pose = ((system.samples.get(key) or [None])[0] for key in ("faces", "landmark_error"))
            status = system.status if system.error is None else f"{system.status}: {system.error}"
            yield [scenario.id, name, status, faces, similar or None, pose]


def condition_table(conditions: Sequence[ScenarioResult]) -> tuple[list[str], list[list[Cell]]]:
    """Header and rows: what both sides tell their networks about each photo's person."""
    keys = dict.fromkeys(key for s in conditions for key in s.comparison if key not in ("failures", "within_limits"))
    rows: list[list[Cell]] = []
    for s in conditions:
        failures = "; ".join(map(str, s.comparison.get("failures") or ()))
        verdict = "within limits" if s.comparison.get("within_limits") else failures
        rows.append([str(s.parameters["conditions_of"]), *(s.comparison.get(key) for key in keys), verdict])
    return ["photo", *(f">{key.replace('_', ' ')}" for key in keys), "verdict"], rows


def judges_of(results: ResultFile) -> dict[str, dict[str, Any]]:
    """Every judge's summary by its name."""
    return results.summary.get("judges") or {}


def has_pairs(results: ResultFile) -> bool:
    """Whether any judge saw two faces to compare."""
    return any(judge.get("pairs") for judge in judges_of(results).values())


def _pairs(cases: Sequence[ScenarioResult], judge: str) -> Iterator[Point]:
    """The reference's and the runtime's cosine of each case in which both show a face."""
    for scenario in cases:
        cosines = {name.partition("-")[0]: _similarity(scenario, name).get(judge) for name in scenario.systems}
        ours, theirs = cosines.get("runtime"), cosines.get("reference")
        if ours and theirs:
            title = f"{scenario.id}: runtime {number(ours[0])}, reference {number(theirs[0])}"
            yield Point(theirs[0], ours[0], title)


def _similarity(scenario: ScenarioResult, system: str) -> dict[str, list[float]]:
    return scenario.systems[system].samples.get("similarity") or {}
