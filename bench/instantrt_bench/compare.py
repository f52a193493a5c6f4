"""Whether B is slower than A: two result files of one benchmark, held against each other only if that is fair.

A regression needs both a slowdown that matters and samples that support it: the ratio of the medians reaches the
threshold, and its bootstrap interval lies above 1. What ran in A and is missing or failed in B is a regression too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from instantrt_bench.results import ResultFile, ScenarioResult, SystemResult
from instantrt_bench.statistics import CONFIDENCE, Interval, ratio_of_medians

Verdict = Literal["slower", "faster", "same", "undecided", "failed", "missing", "worse", "not judged"]
REGRESSIONS = ("slower", "failed", "missing", "worse")
THRESHOLD = 0.05

SAME_MACHINE = ("host", "cpu", "logical_cpus", "gpu")
SAME_BUNDLE = ("precision", "dims_sha256")
SAME_OPTIONS = ("photo", "warm_up", "manifest", "limits")


@dataclass(frozen=True)
class Change:
    """One system in one scenario, before and after.

    Args:
        scenario: its id.
        system: its id.
        verdict: see :data:`REGRESSIONS` for those that fail the gate.
        ratio: median after over median before, with its interval; None where there are no times.
        before_ms: median.
        after_ms: median.
        note: why, where the numbers do not say it.
    """

    scenario: str
    system: str
    verdict: Verdict
    ratio: Interval | None = None
    before_ms: float | None = None
    after_ms: float | None = None
    note: str = ""

    @property
    def regressed(self) -> bool:
        """Whether it fails the gate. The reference is no part of the product: how fast it is never does."""
        return self.verdict in REGRESSIONS and not self.system.startswith("reference-")

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison:
    """Two files held against each other.

    Args:
        changes: of every scenario and system of A.
        refusals: why no verdict is fair; empty if one is.
        notes: what differs and may explain a change, or makes times doubtful.
    """

    changes: tuple[Change, ...]
    refusals: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def regressed(self) -> bool:
        """Whether anything fails the gate."""
        return any(change.regressed for change in self.changes)

    def without_verdicts(self) -> Comparison:
        """The figures alone."""
        return replace(self, changes=tuple(replace(change, verdict="not judged") for change in self.changes))


def compare_results(
    before: ResultFile, after: ResultFile, *, threshold: float = THRESHOLD, confidence: float = CONFIDENCE
) -> Comparison:
    """Hold B against A.

    Args:
        before: A.
        after: B.
        threshold: smallest slowdown that matters, as a share.
        confidence: of the ratio's interval.
    """
    refusals = tuple(reasons_to_refuse(before, after))
    notes = tuple(_notes(before, after))
    if before.kind != after.kind:
        return Comparison((), refusals, notes)
    changes = [change for scenario in before.scenarios for change in _changes(scenario, after, threshold, confidence)]
    return Comparison(tuple(changes), refusals, notes)


def reasons_to_refuse(before: ResultFile, after: ResultFile) -> Iterator[str]:
    """Why the two files must not be compared: what differs besides the code under test."""
    if before.kind != after.kind:
        yield f"A holds {before.kind} results and B {after.kind} results"
        return
    yield from _differences("machine", SAME_MACHINE, before.machine, after.machine)
    if before.threads != after.threads:
        yield f"threads: {before.threads} in A, {after.threads} in B"
    yield from _differences("bundle", SAME_BUNDLE, before.bundle, after.bundle)
    yield from _differences("option", SAME_OPTIONS, before.options, after.options)
    if not {s.id for s in before.scenarios} & {s.id for s in after.scenarios}:
        yield "they have no scenario in common"


def judge_ratio(ratio: Interval, threshold: float) -> Verdict:
    """``slower`` or ``faster`` if the estimate reaches the threshold and the interval excludes 1; ``same`` if the
    interval excludes the threshold; else ``undecided``."""
    if ratio.estimate >= 1 + threshold and ratio.low > 1:
        return "slower"
    if ratio.estimate <= 1 / (1 + threshold) and ratio.high < 1:
        return "faster"
    return "same" if ratio.high < 1 + threshold and ratio.low > 1 / (1 + threshold) else "undecided"


def _changes(before: ScenarioResult, after: ResultFile, threshold: float, confidence: float) -> Iterator[Change]:
    other = after.scenario(before.id)
    for name, system in before.systems.items():
        if system.status != "ok":
            yield Change(before.id, name, "not judged", note=f"{system.status} in A: {system.error}")
            continue
        counterpart = None if other is None else other.systems.get(name)
        if counterpart is None or counterpart.status != "ok":
            yield _gone(before.id, name, counterpart)
        elif system.samples.get("latency_ms"):
            yield _timed(before.id, name, system, counterpart, threshold, confidence)
    if other is not None and "within_limits" in before.comparison:
        yield _limited(before, other)


def _gone(scenario: str, name: str, after: SystemResult | None) -> Change:
    if after is None:
        return Change(scenario, name, "missing", note="not in B")
    return Change(scenario, name, "failed", note=f"{after.status} in B: {after.error}")


def _timed(
    scenario: str, name: str, before: SystemResult, after: SystemResult, threshold: float, confidence: float
) -> Change:
    a, b = before.samples["latency_ms"], after.samples["latency_ms"]
    if not b:
        return Change(scenario, name, "missing", note="B has no samples")
    ratio = ratio_of_medians(b, a, confidence=confidence)
    medians = (_median(before), _median(after))
    return Change(scenario, name, judge_ratio(ratio, threshold), ratio, *medians)


def _limited(before: ScenarioResult, after: ScenarioResult) -> Change:
    """Fidelity and identity bring limits of their own: leaving them is what counts."""
    was, now = bool(before.comparison["within_limits"]), bool(after.comparison.get("within_limits"))
    note = "" if now else "; ".join(map(str, after.comparison.get("failures", ()))) or "beyond its limits"
    verdict: Verdict = "worse" if was and not now else "same" if was == now else "faster"
    return Change(before.id, "limits", verdict, note=note)


def _median(system: SystemResult) -> float:
    return float(system.summary["latency_ms"]["p50"])


def _differences(
    what: str, names: tuple[str, ...], before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[str]:
    for name in names:
        if before.get(name) != after.get(name):
            yield f"{what}: {name} is {before.get(name)!r} in A and {after.get(name)!r} in B"


def _notes(before: ResultFile, after: ResultFile) -> Iterator[str]:
    for name in sorted(set(before.versions) | set(after.versions)):
        if before.versions.get(name) != after.versions.get(name):
            yield f"{name} {before.versions.get(name)} in A, {after.versions.get(name)} in B"
    for name in ("files_sha256", "plans"):
        if before.bundle.get(name) != after.bundle.get(name):
            yield f"the bundle's {'files' if name == 'files_sha256' else 'plans'} differ"
    for label, results in (("A", before), ("B", after)):
        if results.commit.get("dirty"):
            yield f"{label} was measured with uncommitted changes"
        for flag in sorted({flag for s in results.scenarios for flag in s.comparison.get("flags", ())}):
            yield f"{label}: {flag}"
