"""Latency on the CPU, runtime beside reference: ``python -m instantrt_bench.cpu`` (``make bench-cpu``)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from instantrt import GenerateRequest, InstantID, InstantRTError
from instantrt_bench.latency import Race, race, stage_table, varied
from instantrt_bench.machine import machine_facts, usable_cpus
from instantrt_bench.portrait import portrait_jpeg
from instantrt_bench.reference import Reference
from instantrt_export.checkpoint import Checkpoint

PROMPT = "film noir portrait of a person"
MIN_RATIO = 3.0  # what the project promises of the end-to-end latency at 10 steps on nano
MAX_OVERHEAD_US = 100.0  # and of the time per step spent outside the engines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status: 1 if a goal was missed, or could not be judged."""
    options = _parser().parse_args(arguments)

    def request(variant: int) -> GenerateRequest:
        return GenerateRequest(portrait_jpeg(variant), varied(PROMPT, variant), steps=options.steps, seed=42)

    try:
        reference = Reference.load(Checkpoint.open(options.checkpoint), threads=options.threads)
        with InstantID.load(options.bundle, threads=options.threads) as runtime:
            result = race(runtime, reference, request, options.runs)
    except InstantRTError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    facts = _facts(result, request(0), options.threads) | {"machine": machine_facts()}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "bench-cpu.json"
    path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    met = all(goal["met"] for goal in facts["goals"].values())
    sys.stdout.write(f"{stage_table(result)}\n{_goals_text(facts['goals'], result.quiet)}\n{path}\n")
    return 0 if met else 1


def _facts(result: Race, request: GenerateRequest, threads: int) -> dict[str, Any]:
    overhead_us = result.runtime.overhead_us_per_step
    return {
        "latency_ratio": round(result.ratio, 3),
        "goals": {
            "latency_ratio": {"at_least": MIN_RATIO, "met": result.quiet and result.ratio >= MIN_RATIO},
            "host_overhead_us_per_step": {
                "at_most": MAX_OVERHEAD_US,
                "met": result.quiet and overhead_us <= MAX_OVERHEAD_US,
            },
        },
        "quiet": result.quiet,
        "foreign_cpus": None if result.foreign_cpus is None else round(result.foreign_cpus, 2),
        "steps": request.steps,
        "sampler": request.sampler,
        "guidance_scale": request.guidance_scale,
        "threads": threads,
        "runs": len(result.runtime.runs),
        "psnr_db": round(result.comparison.psnr_db, 2),
        "runtime": result.runtime.to_json(),
        "reference": result.reference.to_json(),
    }


def _goals_text(goals: dict[str, dict[str, Any]], quiet: bool) -> str:
    lines = []
    for name, goal in goals.items():
        bound = f"at least {goal['at_least']:g}" if "at_least" in goal else f"at most {goal['at_most']:g}"
        lines.append(f"{name} {bound}: {'met' if goal['met'] else 'MISSED' if quiet else 'NOT JUDGED'}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m instantrt_bench.cpu", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder that `instantrt export` made")
    parser.add_argument("checkpoint", help="the checkpoint it was made from: folder or hub id")
    parser.add_argument("--out", type=Path, default=Path("out/bench-cpu"), help="folder for bench-cpu.json")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--runs", type=int, default=7, help="timed runs of each pipeline (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="of both pipelines (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
