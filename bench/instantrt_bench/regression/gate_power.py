"""How good the gate is on this machine: ``python -m instantrt_bench.regression.gate_power BUNDLE``.

Records many sessions of unchanged code, one process each. Then it plays the gate over and over with what was recorded:
neighbouring sessions go to A and B in turn, as the gate itself takes them, their samples are resampled, and B is judged
as it is (an alarm is false) and with all its times made longer (no alarm is a miss).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from instantrt.atomic import replace_text
from instantrt.bundle import Bundle
from instantrt.cli.arguments import parse_positive
from instantrt.cli.command import ExitStatus, ProgressDisplay, run_to_status
from instantrt.cli.outputs import check_files
from instantrt_bench.latency.measure import Fleet, Rules, measure
from instantrt_bench.latency.scenario import Requests, load_scenarios
from instantrt_bench.latency.summary import BUSY_CPU, scenario_result
from instantrt_bench.latency.systems import Opener, SystemSpec, open_system
from instantrt_bench.regression.arguments import GateOptions
from instantrt_bench.regression.compare import CPU_TIME, LATENCY, Rule, sessions_of
from instantrt_bench.results.files import ResultFile, read_results
from instantrt_bench.results.statistics import session_ratio
from instantrt_bench.results.systems import RUNTIME_ONNXRUNTIME

SEED = 7
Z_95 = 1.959964


@dataclass(frozen=True)
class Share:
    """How often something happened, with Wilson's 95 % interval (1927)."""

    count: int
    of: int
    low: float
    high: float

    @classmethod
    def from_counts(cls, count: int, of: int) -> Share:
        """From the counts."""
        p, z2 = count / of, Z_95**2
        centre = (p + z2 / (2 * of)) / (1 + z2 / of)
        half = Z_95 * sqrt(p * (1 - p) / of + z2 / (4 * of * of)) / (1 + z2 / of)
        return cls(count, of, max(0.0, centre - half), min(1.0, centre + half))


@dataclass(frozen=True)
class Power:
    """The gate's figures for one metric.

    Args:
        metric: what was judged.
        false_alarms: pairs of unchanged code that were called slower.
        detections: pairs with the planted slowdown that were called slower.
    """

    metric: str
    false_alarms: Share
    detections: Share


def record(
    bundle: Path, sessions: int, samples: int, threads: int, out: Path, opener: Opener = open_system
) -> ResultFile:
    """Measure so many sessions of unchanged code, a new process each; the file is written after every one."""
    scenario = load_scenarios("nano-gate")[0]
    rules = Rules(min_samples=samples, max_samples=samples)
    results = ResultFile.new("latency", bundle=Bundle.open(bundle), threads=threads, options=asdict(rules))
    with ProgressDisplay() as display:
        for done in range(1, sessions + 1):
            with Fleet([SystemSpec(RUNTIME_ONNXRUNTIME, bundle, None, threads)], opener) as fleet:
                measurement = measure(fleet, scenario, Requests(), rules)
            if measurement.interrupted:
                raise KeyboardInterrupt
            results = results.with_scenario(scenario_result(measurement, results.scenario(scenario.id)))
            results.write(out)
            display.show("recording sessions", done, sessions)
    return results


def gate_power(
    sessions: Sequence[Sequence[float]], metric: str, *, per_side: int, pairs: int, slowdown: float, rule: Rule
) -> Power:
    """Play the gate ``pairs`` times.

    Args:
        sessions: the recorded samples, in the order of time; at least ``2 * per_side`` sessions.
        metric: its name.
        per_side: sessions of A and of B.
        pairs: how often.
        slowdown: that is planted, as a share.
        rule: of the gate.
    """
    if len(sessions) < 2 * per_side:
        raise ValueError(f"{len(sessions)} sessions are too few for {per_side} on each side")
    rng = np.random.default_rng(SEED)
    alarms = detections = 0
    for _ in range(pairs):
        start = int(rng.integers(len(sessions) - 2 * per_side + 1))
        drawn = [rng.choice(x, len(x)) for x in sessions[start : start + 2 * per_side]]
        # A B, B A, A B, ... as the gate measures; whether A or B comes first is drawn
        first = rng.integers(2)
        a = [drawn[2 * i + (i + first) % 2] for i in range(per_side)]
        b = [drawn[2 * i + (i + first + 1) % 2] for i in range(per_side)]
        alarms += rule.judge(session_ratio(b, a, paired=True), in_turn=True) == "slower"
        slower = [x * (1 + slowdown) for x in b]
        detections += rule.judge(session_ratio(slower, a, paired=True), in_turn=True) == "slower"
    return Power(metric, Share.from_counts(alarms, pairs), Share.from_counts(detections, pairs))


def main(arguments: Sequence[str] | None = None) -> int:
    """Record unless the file is there, play, print; returns the exit status."""
    options = _parser().parse_args(arguments)
    return run_to_status("python -m instantrt_bench.regression.gate_power", lambda: _gate_power(options))


def _gate_power(options: argparse.Namespace) -> ExitStatus:
    check_files([file for file in (options.out, options.json) if file is not None])
    if options.out.exists():
        results = read_results(options.out, "latency")
    else:
        results = record(options.bundle, options.sessions, options.samples, options.threads, options.out)
    scenario = results.scenarios[0]
    samples = scenario.systems[RUNTIME_ONNXRUNTIME].samples
    powers = [
        gate_power(
            sessions_of(samples, metric),
            metric,
            per_side=options.per_side,
            pairs=options.pairs,
            slowdown=options.slowdown,
            rule=Rule(),
        )
        for metric in (LATENCY, CPU_TIME)
    ]
    sys.stdout.write(_conditions(scenario.comparison["sessions"]) + "\n")
    for power in powers:
        sys.stdout.write(f"{power.metric}: {_said(power, options.slowdown)}\n")
    if options.json is not None:
        replace_text(options.json, json.dumps([asdict(power) for power in powers], indent=1) + "\n")
    return ExitStatus.DONE


def _conditions(sessions: Sequence[Mapping[str, Any]]) -> str:
    """Under which the sessions were recorded, and by which metric the gate judges there."""
    busy = sum(BUSY_CPU in session["flags"] for session in sessions)
    foreign = [session["foreign_cpus"] for session in sessions if session["foreign_cpus"] is not None]
    spread = f"{min(foreign):.2f} to {max(foreign):.2f}" if foreign else "an unknown number of"
    return (
        f"{len(sessions)} sessions recorded, during which other processes kept {spread} CPUs busy; "
        f"{busy} of them are busy enough for the gate to judge {CPU_TIME} instead of {LATENCY}"
    )


def _said(power: Power, slowdown: float) -> str:
    detected, alarms = power.detections, power.false_alarms
    return (
        f"{slowdown:.0%} slowdown found in {detected.count} of {detected.of} pairs "
        f"({detected.count / detected.of:.1%}, 95 % interval {detected.low:.1%} to {detected.high:.1%}); "
        f"false alarms in {alarms.count} of {alarms.of} "
        f"({alarms.count / alarms.of:.1%}, {alarms.low:.1%} to {alarms.high:.1%})"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m instantrt_bench.regression.gate_power", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--sessions", type=int, default=60, help="to record (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=GateOptions.samples, help="in each (default: %(default)s)")
    parser.add_argument(
        "--per-side",
        type=int,
        default=GateOptions.sessions,
        help="sessions of A and B (default: %(default)s)",
    )
    parser.add_argument("--pairs", type=int, default=200, help="resampled (default: %(default)s)")
    parser.add_argument("--slowdown", type=float, default=0.10, help="planted (default: %(default)s)")
    parser.add_argument("--threads", type=parse_positive, default=GateOptions.threads)
    parser.add_argument("--out", type=Path, default=Path("out/gate-power.json"), help="read instead if it exists")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    return parser


if __name__ == "__main__":
    sys.exit(main())
