"""Identity over cases: pairs of pictures, the conditions behind them, and a verdict with a stated margin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from instantrt import InstantID, Prepared
from instantrt.conditioning.photo import decode_photo
from instantrt_bench.cases.cases import Case
from instantrt_bench.fidelity.pair import reference_inputs
from instantrt_bench.identity.face_conditions import CheckpointEncoder, compare_conditions
from instantrt_bench.identity.judges.judge import Embedding, Judge
from instantrt_bench.identity.panel import Judged, Keypoints, Panel, Picture
from instantrt_bench.reference.pipeline import Reference
from instantrt_bench.results.attempts import Attempt, attempt
from instantrt_bench.results.files import ScenarioResult, SystemResult
from instantrt_bench.results.metrics import cosine
from instantrt_bench.results.pictures import PictureFolder
from instantrt_bench.results.statistics import Interval, paired_mean_difference
from instantrt_bench.results.systems import REFERENCE_EAGER
from instantrt_export.parity import ComputedIn

MIN_PAIRS = 5  # fewer are not judged
MIN_CLUSTERS = 10  # photos; with fewer, pairs of one photo count as independent, and the summary says so


@dataclass(frozen=True)
class IdentityLimits:
    """What is worse.

    Args:
        delta: the runtime's mean cosine may lie below the reference's by this much.
        detection_loss: share of the cases by which the runtime may show fewer faces than the reference.
    """

    delta: float = 0.02
    detection_loss: float = 0.05


class IdentityBench:
    """Both systems with the judges, and what is remembered of photos.

    Args:
        runtime: makes pictures.
        reference: makes pictures from embeddings that it computes itself.
        encoder: the reference's face encoder.
        panel: judges all pictures.
        system: the runtime's id in results.
        computed_in: by the runtime.
        pictures: where pictures are kept.
    """

    def __init__(
        self,
        runtime: InstantID,
        reference: Reference,
        encoder: CheckpointEncoder,
        panel: Panel,
        system: str,
        computed_in: ComputedIn,
        pictures: PictureFolder,
    ) -> None:
        self._runtime = runtime
        self._reference = reference
        self._encoder = encoder
        self._panel = panel
        self._system = system
        self._computed_in = computed_in
        self._pictures = pictures
        self._people: dict[str, dict[str, Embedding]] = {}

    @property
    def people(self) -> Mapping[str, Mapping[str, Embedding]]:
        """By photo id and judge, the embeddings of the photos so far."""
        return self._people

    def conditions(self, case: Case) -> ScenarioResult:
        """What both sides tell their networks about the person of a case's photo."""

        def compare() -> dict[str, Any]:
            prepared = self._runtime.prepare(case.request)
            embedding = self._embedding(prepared)
            found = compare_conditions(self._runtime, self._reference, prepared, embedding, self._computed_in)
            return found.to_json()

        attempted = attempt(compare)
        comparison = attempted.value or {"failures": [attempted.error], "within_limits": False}
        parameters = {"conditions_of": case.photo.id, "licence": case.photo.licence}
        return ScenarioResult(
            f"conditions/photo={case.photo.id}", parameters, {self._system: attempted.result}, comparison
        )

    def case(self, case: Case) -> ScenarioResult:
        """Make both pictures of a case and judge them. A system that fails is reported; there is then no pair."""
        subject = attempt(lambda: self._subject(case))
        pictures = {
            self._system: attempt(lambda: self._runtime.run(case.request).pixels[0]),
            REFERENCE_EAGER: attempt(lambda: self._reference_picture(case)),
        }
        judged = {name: self._judged(picture, subject) for name, picture in pictures.items()}
        systems = {
            name: attempted.result
            if attempted.value is None
            else replace(attempted.result, samples=attempted.value.to_samples())
            for name, attempted in judged.items()
        }
        ours, theirs = (judged[name].value for name in pictures)
        comparison: dict[str, Any] = {"similarity_difference": _difference(ours, theirs)}
        made = {role: p.value for role, p in zip(("runtime", "reference"), pictures.values(), strict=True)}
        kept = self._pictures.keep(case.id, {role: pixels for role, pixels in made.items() if pixels is not None})
        if kept:
            comparison["pictures"] = {"photo": self._pictures.keep_photo(case.photo.id, case.photo_file), **kept}
        return ScenarioResult(case.id, case.parameters, systems, comparison)

    def _judged(self, picture: Attempt[Picture], subject: Attempt[_Subject]) -> Attempt[Judged]:
        return attempt(lambda: self._panel.picture(picture.get(), subject.get().person, subject.get().asked))

    def _subject(self, case: Case) -> _Subject:
        if case.photo.id not in self._people:
            self._people[case.photo.id] = self._panel.photo(decode_photo(case.photo_file).pixels)
        return _Subject(self._people[case.photo.id], self._runtime.prepare(case.request).identity.keypoints)

    def _reference_picture(self, case: Case) -> Picture:
        prepared = self._runtime.prepare(case.request)
        inputs = replace(reference_inputs(prepared), face_embedding=self._embedding(prepared))
        images: Picture = self._reference.generate(inputs).images
        return np.asarray(images[0])

    def _embedding(self, prepared: Prepared) -> Embedding:
        """The reference's embedding of the face photo: the same face, its own encoder."""
        photo = decode_photo(prepared.request.face).pixels
        return self._encoder.embed(photo, self._runtime.faces.find(photo, "face photo").face)


@dataclass(frozen=True)
class _Subject:
    """Who is asked for and where: embeddings by judge, and keypoints f32 [5, 2] in picture pixels."""

    person: Mapping[str, Embedding]
    asked: Keypoints


def summarise_identity(
    scenarios: Sequence[ScenarioResult],
    judges: Sequence[Judge],
    people: Mapping[str, Mapping[str, Embedding]],
    limits: IdentityLimits,
    system: str,
    *,
    complete: bool,
) -> dict[str, Any]:
    """The verdict and the figures behind it.

    ``verdict`` is

    * "fail": a system failed, the face conditions differ, faces are lost, or a judge finds the runtime worse;
    * "undecided": a judge's interval holds values on both sides of the margin, or there are too few pairs;
    * "not judged": no pair of pictures shows a face, so likeness could not be judged; conditions are as they should be;
    * "pass": every judge finds the runtime not worse by more than ``limits.delta``;
    * "interrupted": as "pass", but not all cases were run.
    """
    conditions = [s for s in scenarios if "conditions_of" in s.parameters]
    cases = [s for s in scenarios if "conditions_of" not in s.parameters]
    per_judge = {judge.name: _judge_summary(cases, judge, people, limits, system) for judge in judges}
    detection = _detection(cases, limits, system)
    failures = _failures(conditions, cases, detection, per_judge)
    leading = next((name for name, judged in per_judge.items() if judged["independent"]), next(iter(per_judge)))
    return {
        "verdict": _verdict(failures, per_judge, complete),
        "failures": failures,
        "statement": _statement(per_judge[leading], leading, detection, limits),
        "max_delta": limits.delta,
        "identity_judge": leading,
        "identity_delta": per_judge[leading]["identity_delta"],
        "identity_delta_interval": per_judge[leading]["identity_delta_interval"],
        "judges": per_judge,
        "detection": detection,
        "landmark_error": _landmarks(cases, system),
        "conditions_checked": len(conditions),
        "cases": len(cases),
    }


def _judge_summary(
    cases: Sequence[ScenarioResult],
    judge: Judge,
    people: Mapping[str, Mapping[str, Embedding]],
    limits: IdentityLimits,
    system: str,
) -> dict[str, Any]:
    similarity = _pairs(cases, "similarity", judge.name, system)
    distance = _pairs(cases, "distance", judge.name, system)
    interval = similarity.interval()
    return {
        "independent": judge.independent,
        "pairs": len(similarity.ours),
        "resampled": similarity.resampled,
        "identity_delta": None if interval is None else interval.estimate,
        "identity_delta_interval": None if interval is None else [interval.low, interval.high],
        "confidence": None if interval is None else interval.confidence,
        "verdict": _judge_verdict(interval, limits.delta),
        "mean_similarity_runtime": _mean(similarity.ours),
        "mean_similarity_reference": _mean(similarity.theirs),
        "distance_delta": distance.json_interval(),
        "different_photos": _between_photos(people, judge.name),
    }


@dataclass(frozen=True)
class _Pairs:
    """A figure of both systems in those cases where both have it; ``photos`` says whose."""

    ours: list[float]
    theirs: list[float]
    photos: list[str]

    @property
    def resampled(self) -> str:
        """What the bootstrap draws: whole photos where there are enough of them."""
        return "photos" if len(set(self.photos)) >= MIN_CLUSTERS else "pairs"

    def interval(self) -> Interval | None:
        """Of the mean difference, runtime minus reference; None without pairs."""
        if not self.ours:
            return None
        clusters = self.photos if self.resampled == "photos" else None
        return paired_mean_difference(self.ours, self.theirs, clusters=clusters)

    def json_interval(self) -> dict[str, Any] | None:
        """Plain data."""
        interval = self.interval()
        return None if interval is None else interval.to_json()


def _pairs(cases: Sequence[ScenarioResult], figure: str, judge: str | None, system: str) -> _Pairs:
    pairs = _Pairs([], [], [])
    for case in cases:
        both = [_sample(case.systems.get(name), figure, judge) for name in (system, REFERENCE_EAGER)]
        if both[0] is not None and both[1] is not None:
            pairs.ours.append(both[0])
            pairs.theirs.append(both[1])
            pairs.photos.append(str(case.parameters["photo"]))
    return pairs


def _sample(result: SystemResult | None, figure: str, judge: str | None) -> float | None:
    samples = {} if result is None else result.samples.get(figure, {})
    values = samples if judge is None else samples.get(judge, [])
    return float(values[0]) if values else None


def _judge_verdict(interval: Interval | None, delta: float) -> str:
    if interval is None:
        return "not judged"
    if interval.samples < MIN_PAIRS:
        return "undecided"
    if interval.low >= -delta:
        return "not worse"
    return "worse" if interval.high < -delta else "undecided"


def _detection(cases: Sequence[ScenarioResult], limits: IdentityLimits, system: str) -> dict[str, Any]:
    """In how many pictures each system shows a face, over the cases in which both made one."""
    pairs = _pairs(cases, "faces", None, system)
    ours, theirs = (np.array(counts) > 0 for counts in (pairs.ours, pairs.theirs))
    total = len(ours)
    lost = (int(theirs.sum()) - int(ours.sum())) / total if total else 0.0
    return {
        "cases": total,
        "runtime": int(ours.sum()),
        "reference": int(theirs.sum()),
        "only_runtime": int((ours & ~theirs).sum()),
        "only_reference": int((theirs & ~ours).sum()),
        "loss": lost,
        "max_loss": limits.detection_loss,
        "within_limits": lost <= limits.detection_loss,
    }


def _landmarks(cases: Sequence[ScenarioResult], system: str) -> dict[str, Any]:
    """Distance from the asked pose in eye distances, where both systems show a face."""
    pairs = _pairs(cases, "landmark_error", None, system)
    return {
        "unit": "eye distances",
        "pairs": len(pairs.ours),
        "mean_runtime": _mean(pairs.ours),
        "mean_reference": _mean(pairs.theirs),
        "delta": pairs.json_interval(),
    }


def _failures(
    conditions: Sequence[ScenarioResult],
    cases: Sequence[ScenarioResult],
    detection: Mapping[str, Any],
    per_judge: Mapping[str, Mapping[str, Any]],
) -> dict[str, list[str]]:
    failures = {s.id: list(s.comparison["failures"]) for s in conditions if not s.comparison["within_limits"]}
    for case in cases:
        errors = [f"{name}: {result.error}" for name, result in case.systems.items() if result.error]
        if errors:
            failures[case.id] = errors
    if not detection["within_limits"]:
        failures["detection"] = [f"faces in {detection['runtime']} pictures, {detection['reference']} of the reference"]
    for name, judged in per_judge.items():
        if judged["verdict"] == "worse":
            failures[f"judge={name}"] = [
                f"{judged['identity_delta']:+.2g}, interval {judged['identity_delta_interval']}"
            ]
    return failures


def _verdict(failures: Mapping[str, Any], per_judge: Mapping[str, Mapping[str, Any]], complete: bool) -> str:
    if failures:
        return "fail"
    if not complete:
        return "interrupted"
    verdicts = {judged["verdict"] for judged in per_judge.values()}
    return next((v for v in ("undecided", "not judged") if v in verdicts), "pass")


def _statement(judged: Mapping[str, Any], judge: str, detection: Mapping[str, Any], limits: IdentityLimits) -> str:
    """The verdict of one judge as a sentence that says what it rests on."""
    missed = detection["cases"] - detection["runtime"]
    faces = f"No face was detected in {missed} of {detection['cases']} pictures of the runtime"
    faces += f" and in {detection['cases'] - detection['reference']} of the reference's."
    if judged["verdict"] == "not judged":
        return f"{faces} Likeness was not judged."
    low, high = judged["identity_delta_interval"]
    words = {
        "not worse": "not worse than the reference by more than",
        "worse": "worse than the reference by more than",
        "undecided": "it is undecided whether the runtime is worse than the reference by more than",
    }[judged["verdict"]]
    kind = "independent judge" if judged["independent"] else "the conditioning encoder, which is biased"
    return (
        f"{words} {limits.delta:g} in cosine ({judge}, {kind}): mean difference {judged['identity_delta']:+.2g}, "
        f"{judged['confidence']:.0%} interval {low:+.2g} to {high:+.2g}, {judged['pairs']} pairs. {faces}"
    )


def _between_photos(people: Mapping[str, Mapping[str, Embedding]], judge: str) -> dict[str, float]:
    """Cosine between every two photos: what unlike people look like to this judge, as a scale for differences.

    Entries of one photo, in several poses say, count once.
    """
    ids = sorted({people[name][judge].tobytes(): name for name in sorted(people, reverse=True)}.values())
    pairs = [(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :]]
    return {f"{a}, {b}": cosine(people[a][judge], people[b][judge]) for a, b in pairs}


def _difference(ours: Judged | None, theirs: Judged | None) -> dict[str, float]:
    """By judge, where both systems show a face."""
    if ours is None or theirs is None:
        return {}
    both = set(ours.similarity) & set(theirs.similarity)
    return {name: ours.similarity[name] - theirs.similarity[name] for name in sorted(both)}


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
