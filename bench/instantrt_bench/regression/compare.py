"""Whether B is slower than A: two result files of one benchmark, held against each other only if that is fair.

A regression needs both a slowdown that matters and samples that support it: the ratio of the medians reaches the
threshold, and its bootstrap interval lies above 1. What ran in A and is missing or failed in B is a regression too.

Two things make that hold on a machine that is noisy. Where other processes kept the CPU busy, latencies say little, and
the CPU time of the system's own process is judged instead. And files count as measured in turn only if their sessions
alternate in time, as those of ``instantrt bench gate`` do: between files that were measured one after the other lies
whatever the machine did meanwhile, which no number of samples shows, so only much larger changes count there. Sessions
in turn are compared in pairs, neighbour with neighbour, so that what slowed down both cancels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal

from instantrt_bench.latency.summary import BUSY_CPU
from instantrt_bench.regression.arguments import CompareOptions
from instantrt_bench.results.files import ResultFile, ScenarioResult, SystemResult
from instantrt_bench.results.statistics import Interval, session_ratio, summarise
from instantrt_bench.results.systems import REFERENCES

Verdict = Literal["slower", "faster", "same", "undecided", "failed", "missing", "worse", "better", "not judged"]
REGRESSIONS = ("slower", "failed", "missing", "worse")
MIN_SESSIONS = 3  # of each side, or nothing is known of how sessions differ
LATENCY, CPU_TIME = "latency_ms", "cpu_ms"

SAME_MACHINE = ("host", "cpu", "logical_cpus", "gpu")
SAME_BUNDLE = ("precision", "dims_sha256")
SAME_OPTIONS = (
    *("photo", "warm_up", "manifest", "limits"),
    *("steps", "guidance_scale", "identity_strength", "adapter_strength", "enhance_face_region", "size"),
)


@dataclass(frozen=True)
class Rule:
    """What counts as a change.

    Args:
        threshold: smallest change that matters, as a share, of files that were measured in turn.
        threshold_apart: the same of files that were not.
        confidence: of the ratio's interval.
    """

    threshold: float = CompareOptions.threshold
    threshold_apart: float = CompareOptions.threshold_apart
    confidence: float = CompareOptions.confidence

    def judge(self, ratio: Interval, in_turn: bool) -> Verdict:
        """``slower`` or ``faster`` if the estimate reaches the threshold and the interval excludes 1; ``same`` if the
        interval excludes the threshold; else ``undecided``."""
        limit = 1 + (self.threshold if in_turn else max(self.threshold, self.threshold_apart))
        if ratio.estimate >= limit and ratio.low > 1:
            return "slower"
        if ratio.estimate <= 1 / limit and ratio.high < 1:
            return "faster"
        return "same" if ratio.high < limit and ratio.low > 1 / limit else "undecided"


@dataclass(frozen=True)
class Change:
    """One system in one scenario, before and after.

    Args:
        scenario: its id.
        system: its id.
        verdict: see :data:`REGRESSIONS` for those that fail the gate.
        metric: what was judged, ``latency_ms`` or ``cpu_ms``.
        ratio: median after over median before, with its interval; None where there are no times.
        before_ms: median of all samples.
        after_ms: likewise.
        note: why, where the numbers do not say it.
    """

    scenario: str
    system: str
    verdict: Verdict
    metric: str = ""
    ratio: Interval | None = None
    before_ms: float | None = None
    after_ms: float | None = None
    note: str = ""

    @property
    def regressed(self) -> bool:
        """Whether it fails the gate. The reference is no part of the product: how fast it is never does."""
        return self.verdict in REGRESSIONS and self.system not in REFERENCES

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


def compare_results(before: ResultFile, after: ResultFile, rule: Rule | None = None) -> Comparison:
    """Hold B against A.

    Args:
        before: A.
        after: B.
        rule: what counts as a change; None takes the defaults.
    """
    rule = rule or Rule()
    refusals = tuple(reasons_to_refuse(before, after))
    notes = tuple(_notes(before, after))
    if before.kind != after.kind:
        return Comparison((), refusals, notes)
    changes = [change for scenario in before.scenarios for change in _changes(scenario, after, rule)]
    return Comparison((*changes, *_overall(before, after)), refusals, notes)


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
    yield from _other_places(before, after)
    if not {s.id for s in before.scenarios} & {s.id for s in after.scenarios}:
        yield "they have no scenario in common"


def _other_places(before: ResultFile, after: ResultFile) -> Iterator[str]:
    """Systems that ran on another device or computed in another dtype; files that do not say so are not asked."""
    for scenario in before.scenarios:
        other = after.scenario(scenario.id)
        for name, system in scenario.systems.items():
            counterpart = None if other is None else other.systems.get(name)
            if counterpart is not None and "device" in system.summary and "device" in counterpart.summary:
                what = f"{name} in {scenario.id}"
                yield from _differences(what, ("device", "dtype"), system.summary, counterpart.summary)


def in_turn(before: ScenarioResult, after: ScenarioResult) -> bool:
    """Whether the sessions of both alternate in time, and are enough to tell how sessions differ."""
    starts = [[session["started"] for session in side.comparison.get("sessions", ())] for side in (before, after)]
    fewest = min(map(len, starts))
    order = [side for _, side in sorted((start, side) for side in (0, 1) for start in starts[side])]
    switches = sum(one != other for one, other in pairwise(order))
    return fewest >= MIN_SESSIONS and switches >= fewest


def _changes(before: ScenarioResult, after: ResultFile, rule: Rule) -> Iterator[Change]:
    other = after.scenario(before.id)
    for name, system in before.systems.items():
        if system.status != "ok":
            yield Change(before.id, name, "not judged", note=f"{system.status} in A: {system.error}")
            continue
        counterpart = None if other is None else other.systems.get(name)
        if counterpart is None or counterpart.status != "ok":
            yield _gone(before.id, name, counterpart)
        elif other is not None and system.samples.get(LATENCY):
            yield _timed(before, other, name, rule)
    if other is not None and "within_limits" in before.comparison:
        yield _limited(before, other)


def _gone(scenario: str, name: str, after: SystemResult | None) -> Change:
    if after is None:
        return Change(scenario, name, "missing", note="not in B")
    return Change(scenario, name, "failed", note=f"{after.status} in B: {after.error}")


def _timed(before: ScenarioResult, after: ScenarioResult, name: str, rule: Rule) -> Change:
    sides = (before, after)
    samples = [side.systems[name].samples for side in sides]
    if not samples[1].get("latency_ms"):
        return Change(before.id, name, "missing", note="B has no samples")
    busy = any(BUSY_CPU in side.comparison.get("flags", ()) for side in sides)
    metric = CPU_TIME if busy and all(s.get(CPU_TIME) for s in samples) else LATENCY
    a, b = (sessions_of(s, metric) for s in samples)
    alternating = in_turn(before, after)
    ratio = session_ratio(b, a, paired=alternating and len(a) == len(b), confidence=rule.confidence)
    before_ms, after_ms = (summarise(s[metric])["p50"] for s in samples)
    note = "" if alternating else f"not measured in turn: only changes of {rule.threshold_apart:.0%} count"
    return Change(before.id, name, rule.judge(ratio, alternating), metric, ratio, before_ms, after_ms, note)


def sessions_of(samples: Mapping[str, Any], metric: str) -> list[list[float]]:
    """The samples of a metric by session; all are of one if the file does not tell."""
    sessions: dict[int, list[float]] = {}
    for session, value in zip(samples.get("session") or [0] * len(samples[metric]), samples[metric], strict=True):
        sessions.setdefault(session, []).append(value)
    return list(sessions.values())


def _limited(before: ScenarioResult, after: ScenarioResult) -> Change:
    """Fidelity and identity bring limits of their own: leaving them is what counts."""
    was, now = bool(before.comparison["within_limits"]), bool(after.comparison.get("within_limits"))
    note = "" if now else "; ".join(map(str, after.comparison.get("failures", ()))) or "beyond its limits"
    verdict: Verdict = "worse" if was and not now else "same" if was == now else "better"
    return Change(before.id, "limits", verdict, note=note)


def _overall(before: ResultFile, after: ResultFile) -> Iterator[Change]:
    """What fidelity and identity say of all cases together. Only a verdict of "fail" is a regression."""
    was, now = (results.summary.get("verdict") for results in (before, after))
    if was is None:
        return
    verdict: Verdict = "undecided"
    if was == now:
        verdict = "same"
    elif "fail" in (was, now):
        verdict = "worse" if now == "fail" else "better"
    yield Change("all cases", "verdict", verdict, note="" if was == now else f"{was} in A, {now} in B")


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
