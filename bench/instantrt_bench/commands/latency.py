"""`instantrt bench latency`: scenarios on systems, written to a result file after each."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from instantrt.bundle import Bundle
from instantrt.cli.common import ProgressLine, print_json
from instantrt.errors import PhotoError, RequestError
from instantrt_bench.gpu import GpuMonitor
from instantrt_bench.history import keep
from instantrt_bench.latency import latency_summary, scenario_result
from instantrt_bench.machine import usable_cpus
from instantrt_bench.measure import Fleet, Rules, measure
from instantrt_bench.results import (
    REFERENCE_COMPILED,
    REFERENCE_EAGER,
    RUNTIME_ONNXRUNTIME,
    ResultError,
    ResultFile,
    read_results,
)
from instantrt_bench.roofline import Peak, gpu_peak, measured_cpu_peak, stage_costs
from instantrt_bench.scenario import Requests, load_scenarios
from instantrt_bench.systems import Opener, SystemSpec, open_system
from instantrt_bench.tables import scenario_table

MISSED_GOAL = 3
SAME_TO_APPEND = ("machine", "versions", "threads", "commit", "bundle", "options")
CPU_SYSTEMS = (RUNTIME_ONNXRUNTIME, REFERENCE_EAGER, REFERENCE_COMPILED)


def run_latency(args: argparse.Namespace, opener: Opener = open_system) -> int:
    """Run the command. Returns 3 if a goal was missed or could not be judged, else 0.

    Args:
        args: see :mod:`instantrt.cli.bench_latency`.
        opener: loads the systems.

    Raises:
        KeyboardInterrupt: the user ended it; what was measured until then has been written.
        InstantRTError: bad arguments.
    """
    bundle, scenarios, rules = Bundle.open(args.bundle), load_scenarios(args.scenarios, args.only), _rules(args)
    for scenario in scenarios:
        bundle.manifest.sizes.check(scenario.width, scenario.height)
    specs, requests = _specs(args), Requests(_photo(args.photo))
    gpu = _gpu(specs)
    results = _results(args, bundle, rules, {} if gpu is None else gpu.facts())
    peak = _peak(args, results.machine.get("gpu"))
    with Fleet(specs, opener) as fleet:
        for scenario in scenarios:
            progress = ProgressLine(scenario.id)
            found = measure(fleet, scenario, requests, rules, gpu=gpu, on_round=progress)
            measured = scenario_result(found, results.scenario(scenario.id), stage_costs(bundle, scenario), peak)
            results = results.with_scenario(measured)
            results = replace(results, summary=latency_summary(results))
            results.write(args.out)
            if not args.json:
                sys.stdout.write(scenario_table(results.scenarios[-1]))
                sys.stdout.flush()
            if found.interrupted:
                raise KeyboardInterrupt
    if args.history is not None:
        keep(results, args.history)
    missed = missed_goals(results, args.require_ratio, args.require_overhead_us)
    if args.json:
        print_json({"file": str(args.out), "missed": missed, **results.summary})
    else:
        sys.stdout.write("".join(f"goal missed: {goal}\n" for goal in missed) + f"{args.out}\n")
    return MISSED_GOAL if missed else 0


def _gpu(specs: Sequence[SystemSpec]) -> GpuMonitor | None:
    return GpuMonitor.open() if any(spec.name not in CPU_SYSTEMS for spec in specs) else None


def _results(args: argparse.Namespace, bundle: Bundle, rules: Rules, gpu: dict[str, Any]) -> ResultFile:
    """An empty file, or with ``--append`` the one that is there, if these measurements belong into it.

    Raises:
        ResultError: the file is about other code, another machine, another bundle or other options.
    """
    new = ResultFile.new("latency", bundle=bundle, threads=_threads(args), options=_options(args, rules))
    new.machine.update(gpu)
    if not args.append or not args.out.exists():
        return new
    old = read_results(args.out, "latency")
    differing = [name for name in SAME_TO_APPEND if getattr(old, name) != getattr(new, name)]
    if differing:
        raise ResultError(f"these measurements do not belong into {args.out}", found=f"other {', '.join(differing)}")
    return old


def missed_goals(results: ResultFile, ratio: float | None, overhead_us: float | None) -> list[str]:
    """What of the asked was not reached, or cannot be judged, in any scenario."""
    missed = []
    for scenario in results.scenarios:
        for name, system in scenario.systems.items():
            if name.startswith("reference-") or (ratio is None and overhead_us is None):
                continue
            if system.status != "ok":
                missed.append(f"{scenario.id}: {name} {system.status}: {system.error}")
                continue
            found = scenario.comparison["ratios"].get(name, {}).get("estimate")
            overhead = system.summary["host_overhead_us_per_step"]["p50"]
            if ratio is not None and (found is None or found < ratio):
                missed.append(f"{scenario.id}: {name} ratio {found if found is None else round(found, 2)} < {ratio:g}")
            if overhead_us is not None and overhead > overhead_us:
                missed.append(f"{scenario.id}: {name} host overhead {overhead:.0f} us > {overhead_us:g} us")
        if missed and scenario.comparison.get("flags"):
            missed.append(f"{scenario.id}: not judged fairly: {'; '.join(scenario.comparison['flags'])}")
    return missed


def _rules(args: argparse.Namespace) -> Rules:
    if not 1 <= args.min_samples <= args.max_samples or args.warm_up < 1:
        raise RequestError("--min-samples must be from 1 to --max-samples, and --warm-up at least 1")
    return Rules(args.warm_up, args.min_samples, args.max_samples, args.noise, args.max_seconds, args.min_psnr)


def _threads(args: argparse.Namespace) -> int:
    return args.threads or usable_cpus()


def _specs(args: argparse.Namespace) -> list[SystemSpec]:
    default = [RUNTIME_ONNXRUNTIME, *([REFERENCE_EAGER] if args.checkpoint else [])]
    names: Sequence[str] = list(dict.fromkeys(args.systems or default))
    if args.checkpoint is None and any(name.startswith("reference-") for name in names):
        raise RequestError("the reference needs the checkpoint that the bundle was made from", hint="--checkpoint")
    return [SystemSpec(name, args.bundle, args.checkpoint, _threads(args)) for name in names]


def _photo(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise PhotoError(f"{path} cannot be read", found=error.strerror) from error


def _peak(args: argparse.Namespace, gpu: str | None) -> Peak | None:
    if (args.peak_tflops is None) != (args.peak_gbs is None):
        raise RequestError("--peak-tflops and --peak-gbs belong together")
    if args.peak_tflops is not None:
        return Peak(args.peak_tflops, args.peak_gbs, "given on the command line")
    return measured_cpu_peak() if args.measure_peak else gpu_peak(gpu)


def _options(args: argparse.Namespace, rules: Rules) -> dict[str, Any]:
    photo = None if args.photo is None else args.photo.name
    return {**asdict(rules), "scenarios": args.scenarios, "photo": photo}
