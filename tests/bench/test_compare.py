"""The verdict of a comparison, what is refused, and the exit status."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from doubles.bench_results import RUNTIME, SCENARIO, latency_file
from doubles.bench_systems import open_sleeping
from instantrt.cli import main
from instantrt_bench.regression.compare import Comparison, Rule, compare_results, in_turn
from instantrt_bench.regression.gate_power import Share, gate_power, record
from instantrt_bench.regression.gate_power import main as gate_power_main
from instantrt_bench.results.files import ResultFile, ScenarioResult, SystemResult, read_results
from instantrt_bench.results.statistics import Interval
from randomness import fresh_rng


def sessions(ms: float, count: int = 5, noise: float = 0.01) -> list[list[float]]:
    rng = fresh_rng()
    return [list(ms * rng.lognormal(0, noise) * rng.lognormal(0, noise, 12)) for _ in range(count)]


def alternating(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], **both: Any) -> Comparison:
    return compare_results(latency_file(a, **both), latency_file(b, first_minute=1, **both))


def verdict(found: Comparison) -> str:
    (change,) = found.changes
    return change.verdict


@pytest.mark.parametrize(
    ("factor", "expected", "regressed"),
    [(1.0, "same", False), (1.1, "slower", True), (0.9, "faster", False), (2.0, "slower", True)],
)
def test_files_measured_in_turn(factor: float, expected: str, regressed: bool) -> None:
    found = alternating(sessions(100, noise=0.004), sessions(100 * factor, noise=0.004))
    assert verdict(found) == expected
    assert found.regressed == regressed
    (change,) = found.changes
    assert change.ratio.estimate == pytest.approx(factor, rel=0.03)
    assert change.before_ms == pytest.approx(100, rel=0.03)
    assert change.after_ms == pytest.approx(100 * factor, rel=0.03)
    assert (change.metric, change.note) == ("latency_ms", "")


def test_figures_of_another_device_or_dtype_are_not_compared() -> None:
    def placed(device: str, dtype: str) -> ResultFile:
        results = latency_file(sessions(100))
        (scenario,) = results.scenarios
        system = scenario.systems[RUNTIME]
        summary = {**system.summary, "device": device, "dtype": dtype}
        return results.with_scenario(replace(scenario, systems={RUNTIME: replace(system, summary=summary)}))

    found = compare_results(placed("cpu", "fp32"), placed("cuda", "fp16"))
    assert found.refusals == (
        f"{RUNTIME} in {SCENARIO}: device is 'cpu' in A and 'cuda' in B",
        f"{RUNTIME} in {SCENARIO}: dtype is 'fp32' in A and 'fp16' in B",
    )
    assert not compare_results(placed("cpu", "fp32"), placed("cpu", "fp32")).refusals
    assert not compare_results(placed("cpu", "fp32"), latency_file(sessions(100))).refusals  # an older file


def test_a_slowdown_needs_both_size_and_support() -> None:
    rule = Rule(threshold=0.05)

    def judged(estimate: float, low: float, high: float, turns: bool = True) -> str:
        return rule.judge(Interval(estimate, low, high, 0.95, 10), turns)

    assert judged(1.04, 1.03, 1.049) == "same"  # supported, but too small to matter
    assert judged(1.2, 0.9, 1.5) == "undecided"  # large, but not supported
    assert judged(1.06, 1.01, 1.1) == "slower"
    assert judged(0.9, 0.85, 0.95) == "faster"
    assert judged(1.2, 1.19, 1.21, turns=False) == "same"  # what the machine did in between can be that much
    assert judged(1.3, 1.2, 1.4, turns=False) == "slower"


def test_files_measured_one_after_the_other_need_a_larger_change() -> None:
    before, after = latency_file(sessions(100)), latency_file(sessions(112), first_minute=60)
    (change,) = compare_results(before, after).changes
    assert change.verdict in ("same", "undecided")
    assert "not measured in turn" in change.note
    (change,) = compare_results(before, latency_file(sessions(140), first_minute=60)).changes
    assert change.verdict == "slower"
    assert verdict(compare_results(before, after, Rule(threshold_apart=0.05))) == "slower"


def test_in_turn_means_that_sessions_alternate() -> None:
    def scenario(minutes: Sequence[float]) -> ScenarioResult:
        starts = [{"started": f"2026-01-01T00:{minute:02}"} for minute in minutes]
        return ScenarioResult("a", {}, {}, {"sessions": starts})

    assert in_turn(scenario([0, 3, 4, 7]), scenario([1, 2, 5, 6]))  # A B, B A, A B, B A
    assert in_turn(scenario([0, 2, 4]), scenario([1, 3, 5]))
    assert not in_turn(scenario([0, 1, 2]), scenario([3, 4, 5]))
    assert not in_turn(scenario([0, 2]), scenario([1, 3]))  # too few
    assert not in_turn(ScenarioResult("a", {}), scenario([1, 3, 5]))


def test_on_a_busy_machine_cpu_time_is_judged() -> None:
    cpu_before, cpu_after = sessions(100, noise=0.004), sessions(112, noise=0.004)
    wall = [list(fresh_rng().uniform(100, 900, 12)) for _ in range(5)]
    before = latency_file(wall, cpu=cpu_before, busy=True)
    after = latency_file(wall[::-1], cpu=cpu_after, first_minute=1, busy=True)
    (change,) = compare_results(before, after).changes
    assert (change.metric, change.verdict) == ("cpu_ms", "slower")
    assert change.after_ms == pytest.approx(112, rel=0.03)


def test_what_is_gone_or_fails_is_a_regression() -> None:
    before = latency_file(sessions(100))
    failed = replace(before, scenarios=(_with_system(before, SystemResult("failed", "OOM")),))
    gone = replace(before, scenarios=(replace(before.scenarios[0], systems={}),))
    assert (verdict(compare_results(before, failed)), compare_results(before, failed).regressed) == ("failed", True)
    assert "OOM" in compare_results(before, failed).changes[0].note
    assert (verdict(compare_results(before, gone)), compare_results(before, gone).regressed) == ("missing", True)
    assert verdict(compare_results(failed, before)) == "not judged"


def test_the_reference_never_fails_the_gate() -> None:
    before = latency_file(sessions(100), system="reference-eager")
    after = latency_file(sessions(200), first_minute=1, system="reference-eager")
    found = compare_results(before, after)
    assert verdict(found) == "slower"
    assert not found.regressed


def _with_system(results: ResultFile, system: SystemResult) -> ScenarioResult:
    return replace(results.scenarios[0], systems={RUNTIME: system})


def test_fidelity_regresses_by_leaving_its_limits() -> None:
    def fidelity(within: bool) -> ResultFile:
        comparison = {"within_limits": within, "failures": [] if within else ["PSNR 12 dB"]}
        scenario = ScenarioResult("case", {}, {RUNTIME: SystemResult("ok")}, comparison)
        return replace(latency_file([[1.0]]), kind="fidelity", scenarios=(scenario,))

    worse = compare_results(fidelity(True), fidelity(False))
    assert (verdict(worse), worse.regressed, worse.changes[0].note) == ("worse", True, "PSNR 12 dB")
    assert not compare_results(fidelity(False), fidelity(False)).regressed
    assert not compare_results(fidelity(True), fidelity(True)).regressed


@pytest.mark.parametrize(
    ("was", "now", "expected"),
    [
        ("pass", "pass", "same"),
        ("pass", "fail", "worse"),
        ("undecided", "fail", "worse"),
        ("fail", "fail", "same"),
        ("fail", "pass", "better"),
        ("pass", "undecided", "undecided"),
        ("pass", None, "undecided"),
    ],
)
def test_identity_regresses_by_its_verdict_on_all_cases(was: str, now: str | None, expected: str) -> None:
    case = ScenarioResult("case", {}, {RUNTIME: SystemResult("ok")})
    identity = replace(latency_file([[1.0]]), kind="identity", scenarios=(case,))
    found = compare_results(replace(identity, summary={"verdict": was}), replace(identity, summary={"verdict": now}))
    (change,) = found.changes
    assert (change.verdict, found.regressed) == (expected, expected == "worse")
    assert ("in A" in change.note) == (was != now)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"machine": {"host": "b", "cpu": "Quick 3000", "logical_cpus": 2}}, "host"),
        ({"machine": {"host": "a", "cpu": "Slow 1", "logical_cpus": 2}}, "Slow 1"),
        ({"machine": {"host": "a", "cpu": "Quick 3000", "logical_cpus": 2, "gpu": "H100"}}, "H100"),
        ({"threads": 2}, "threads: 1 in A, 2 in B"),
        ({"bundle": {"precision": "fp16", "dims_sha256": "d"}}, "fp16"),
        ({"bundle": {"precision": "fp32", "dims_sha256": "other"}}, "dims_sha256"),
        ({"options": {"photo": "me.jpg"}}, "me.jpg"),
        ({"options": {"photo": None, "steps": 30}}, "steps is None in A and 30 in B"),
        ({"kind": "identity"}, "identity"),
        ({"scenarios": ()}, "no scenario in common"),
    ],
)
def test_what_is_not_comparable_is_refused_with_the_reason(
    changes: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    latency_file(sessions(100)).write(files[0])
    latency_file(sessions(300), **changes).write(files[1])
    command = ["bench", "compare", *map(str, files)]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert said in captured.err
    assert "not comparable" in captured.err
    assert captured.out == ""
    assert main([*command, "--no-verdict"]) == 0
    shown = capsys.readouterr().out
    assert said in shown
    assert "slower" not in shown
    assert "no verdict" in shown


def test_differences_that_may_explain_a_change_are_noted() -> None:
    before = latency_file(sessions(100))
    after = latency_file(sessions(100), versions={"numpy": "2.1"}, commit={"sha": "1" * 40, "dirty": True}, busy=True)
    after.bundle["files_sha256"] = "g"
    notes = "; ".join(compare_results(before, after).notes)
    for said in ("numpy 2.0 in A, 2.1 in B", "files differ", "B was measured with uncommitted", "B: other processes"):
        assert said in notes


@pytest.mark.parametrize(("factor", "status"), [(1.0, 0), (1.12, 3)])
def test_the_command_says_it_with_its_exit_status(
    factor: float, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    latency_file(sessions(100, noise=0.004)).write(files[0])
    latency_file(sessions(100 * factor, noise=0.004), first_minute=1).write(files[1])
    assert main(["bench", "compare", *map(str, files)]) == status
    text = capsys.readouterr().out
    assert SCENARIO in text
    assert text.endswith("REGRESSION\n" if status else "no regression\n")
    assert main(["bench", "compare", *map(str, files), "--json"]) == status
    found = json.loads(capsys.readouterr().out)
    assert found["regressed"] == bool(status)
    assert found["changes"][0]["ratio"]["estimate"] == pytest.approx(factor, rel=0.03)


@pytest.mark.parametrize("option", [["--threshold", "0"], ["--confidence", "1"]])
def test_thresholds_that_make_no_sense_are_refused(option: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    latency_file(sessions(100)).write(path)
    assert main(["bench", "compare", str(path), str(path), *option]) == 1


def test_the_gate_has_power_and_seldom_cries_wolf() -> None:
    """On made-up sessions that drift by a tenth and differ by 2 %, as those of a busy machine were seen to."""
    rng = fresh_rng()
    drift = 1 + 0.05 * np.sin(np.arange(40) / 6)
    recorded = [list(100 * d * rng.lognormal(0, 0.02) * rng.lognormal(0, 0.02, 12)) for d in drift]
    power = gate_power(recorded, "cpu_ms", per_side=12, pairs=100, slowdown=0.10, rule=Rule())
    assert power.detections.count >= 95
    assert power.false_alarms.count <= 5
    nothing = gate_power(recorded, "cpu_ms", per_side=12, pairs=100, slowdown=0.0, rule=Rule())
    assert nothing.detections == nothing.false_alarms


def test_sessions_are_recorded_once_and_played(
    nano_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, figures = tmp_path / "sessions.json", tmp_path / "power.json"
    recorded = record(nano_bundle, 4, 3, 1, out, open_sleeping)
    (scenario,) = recorded.scenarios
    samples = scenario.systems[RUNTIME].samples
    assert samples["session"] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert len(samples["cold_start_ms"]) == 4  # a new process each
    assert read_results(out) == recorded
    command = [str(nano_bundle), "--per-side", "2", "--pairs", "20", "--out", str(out), "--json", str(figures)]
    assert gate_power_main([*command, "--slowdown", "3"]) == 0
    said = capsys.readouterr().out
    assert "4 sessions recorded" in said
    assert "cpu_ms: 300% slowdown found in 20 of 20 pairs" in said
    latency, cpu = json.loads(figures.read_text())
    assert (latency["metric"], cpu["metric"]) == ("latency_ms", "cpu_ms")
    assert (cpu["detections"]["count"], cpu["false_alarms"]["count"], cpu["detections"]["of"]) == (20, 0, 20)


def test_wilsons_interval_by_hand() -> None:
    # 0 of 100: centre and half width are z^2 / 2n / (1 + z^2 / n) = 0.0185
    share = Share.from_counts(0, 100)
    assert (share.low, share.high) == (pytest.approx(0, abs=1e-12), pytest.approx(0.0370, abs=1e-4))
    share = Share.from_counts(5, 10)
    assert share.low == pytest.approx(0.2366, abs=1e-4)
    assert share.high == pytest.approx(0.7634, abs=1e-4)


def test_too_few_sessions_to_play_the_gate() -> None:
    with pytest.raises(ValueError, match="3 sessions are too few"):
        gate_power(sessions(100, 3), "cpu_ms", per_side=2, pairs=1, slowdown=0.1, rule=Rule())
