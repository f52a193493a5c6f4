"""`instantrt bench latency`: scenarios on systems, written to a result file after each."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from instantrt.bundle import Bundle
from instantrt.cli.command import ExitStatus, ProgressDisplay, print_json
from instantrt.contracts import Precision
from instantrt.errors import PhotoError, RequestError
from instantrt_bench.latency.arguments import LatencyOptions
from instantrt_bench.latency.gpu import GpuMonitor
from instantrt_bench.latency.measure import Fleet, Rules, measure
from instantrt_bench.latency.roofline import Peak, gpu_peak, measured_cpu_peak, stage_costs
from instantrt_bench.latency.scenario import Requests, load_scenarios
from instantrt_bench.latency.summary import latency_summary, scenario_result
from instantrt_bench.latency.systems import Opener, SystemSpec, open_system
from instantrt_bench.regression.history import keep
from instantrt_bench.results.files import (
    REFERENCE_EAGER,
    RUNTIME_ONNXRUNTIME,
    TARGET_OF,
    ResultError,
    ResultFile,
    ScenarioResult,
    read_results,
)
from instantrt_bench.results.machine import system_threads
from instantrt_bench.results.tables import scenario_table

SAME_TO_APPEND = ("machine", "versions", "threads", "commit", "bundle", "options")
CPU_SYSTEMS = (RUNTIME_ONNXRUNTIME,)  # of the runtime; the reference runs where it is told to
CPU, GPU = "cpu", "cuda"


def run_latency(options: LatencyOptions, opener: Opener = open_system) -> ExitStatus:
    """Run the command: ``MISSED`` if a goal was missed or could not be judged.

    Args:
        options: of the command.
        opener: loads the systems.

    Raises:
        KeyboardInterrupt: the user ended it; what was measured until then has been written.
        InstantRTError: bad arguments.
    """
    options = replace(options, threads=system_threads(options.threads))
    bundle, scenarios, rules = (
        Bundle.open(options.bundle),
        load_scenarios(options.scenarios, options.only),
        _rules(options),
    )
    for scenario in scenarios:
        bundle.manifest.sizes.check(scenario.width, scenario.height)
    specs, requests = _specs(options, bundle.precision), Requests(_photo(options.photo))
    gpus = monitors(specs)
    of_runtime_first = sorted(specs, key=lambda spec: spec.name not in TARGET_OF)
    gpu = next((gpus[spec.name] for spec in of_runtime_first if spec.name in gpus), None)
    results = _results(options, bundle, rules, specs, {} if gpu is None else gpu.facts())
    peak = _peak(options, results.machine.get("gpu"))
    with Fleet(specs, opener) as fleet, ProgressDisplay() as display:
        for scenario in scenarios:
            measurement = measure(fleet, scenario, requests, rules, gpus=gpus, on_round=display.task(scenario.id))
            measured = scenario_result(measurement, results.scenario(scenario.id), stage_costs(bundle, scenario), peak)
            results = results.with_scenario(with_places(measured, specs))
            results = replace(results, summary=latency_summary(results))
            results.write(options.out)
            if not options.json:
                sys.stdout.write(scenario_table(results.scenarios[-1]))
                sys.stdout.flush()
            if measurement.interrupted:
                raise KeyboardInterrupt
    if options.history is not None:
        keep(results, options.history)
    missed = missed_goals(results, options.require_ratio, options.require_overhead_us)
    if options.json:
        print_json({"file": str(options.out), "missed": missed, **results.summary})
    else:
        sys.stdout.write("".join(f"goal missed: {goal}\n" for goal in missed) + f"{options.out}\n")
    return ExitStatus.MISSED if missed else ExitStatus.DONE


def monitors(specs: Sequence[SystemSpec]) -> dict[str, GpuMonitor]:
    """By system, what watches the GPU on which it runs: none for those on CPUs and where NVML cannot be asked."""
    ordinals = {spec.name: int(spec.device.partition(":")[2] or 0) for spec in specs if spec.device != CPU}
    opened = {ordinal: GpuMonitor.open(ordinal) for ordinal in set(ordinals.values())}
    return {name: gpu for name, ordinal in ordinals.items() if (gpu := opened[ordinal]) is not None}


def _results(
    options: LatencyOptions, bundle: Bundle, rules: Rules, specs: Sequence[SystemSpec], gpu: dict[str, Any]
) -> ResultFile:
    """An empty file, or with ``--append`` the one that is there, if these measurements belong into it.

    Raises:
        ResultError: the file is about other code, another machine, another bundle or other options.
    """
    new = ResultFile.new("latency", bundle=bundle, threads=options.threads, options=_options(options, rules, specs))
    new.machine.update(gpu)
    if not options.append or not options.out.exists():
        return new
    old = read_results(options.out, "latency")
    differing = [name for name in SAME_TO_APPEND if getattr(old, name) != getattr(new, name)]
    if differing:
        what, found = f"these measurements do not belong into {options.out}", f"other {', '.join(differing)}"
        raise ResultError(what, found=found, hint="name another file with --out, or leave out --append")
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
            estimate = scenario.comparison["ratios"].get(name, {}).get("estimate")
            overhead = system.summary["host_overhead_us_per_call"]["p50"]
            if ratio is not None and (estimate is None or estimate < ratio):
                missed.append(
                    f"{scenario.id}: {name} ratio {estimate if estimate is None else round(estimate, 2)} < {ratio:g}"
                )
            if overhead_us is not None and overhead > overhead_us:
                missed.append(f"{scenario.id}: {name} host overhead {overhead:.0f} us > {overhead_us:g} us")
        if missed and scenario.comparison.get("flags"):
            missed.append(f"{scenario.id}: not judged fairly: {'; '.join(scenario.comparison['flags'])}")
    return missed


def _rules(options: LatencyOptions) -> Rules:
    if not 1 <= options.min_samples <= options.max_samples or options.warm_up < 1:
        found = f"--min-samples {options.min_samples}, --max-samples {options.max_samples}, --warm-up {options.warm_up}"
        what = "--min-samples must be from 1 to --max-samples, and --warm-up at least 1"
        raise RequestError(what, found=found, hint="leave them out for 20, 40 and 2")
    return Rules(
        options.warm_up, options.min_samples, options.max_samples, options.noise, options.max_seconds, options.min_psnr
    )


def with_places(scenario: ScenarioResult, specs: Sequence[SystemSpec]) -> ScenarioResult:
    """With the device and the dtype of every system in its summary."""
    places = {spec.name: {"device": spec.device, "dtype": spec.dtype} for spec in specs}
    systems = {
        name: replace(system, summary={**system.summary, **places[name]}) if system.summary else system
        for name, system in scenario.systems.items()
    }
    return replace(scenario, systems=systems)


def _specs(options: LatencyOptions, precision: Precision) -> list[SystemSpec]:
    """The systems; the reference is where the runtime is and in the bundle's precision, unless asked otherwise."""
    default = [RUNTIME_ONNXRUNTIME, *([REFERENCE_EAGER] if options.checkpoint else [])]
    names: Sequence[str] = list(dict.fromkeys(options.systems or default))
    if options.checkpoint is None and any(name.startswith("reference-") for name in names):
        what = "the reference needs the checkpoint that the bundle was made from"
        raise RequestError(what, found="no --checkpoint", hint="name its folder or hub id with --checkpoint")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", options.reference_device or CPU):
        what, hint = "the reference runs on a CPU or on an NVIDIA GPU", "use cpu, cuda, or cuda:1 for the second GPU"
        raise RequestError(what, found=f"--reference-device {options.reference_device}", hint=hint)
    on_gpu = any(name in TARGET_OF and name not in CPU_SYSTEMS for name in names)
    reference = (options.reference_device or (GPU if on_gpu else CPU), options.reference_dtype or precision)
    specs = []
    for name in names:
        place = (CPU if name in CPU_SYSTEMS else GPU, precision) if name in TARGET_OF else reference
        specs.append(SystemSpec(name, options.bundle, options.checkpoint, options.threads, *place))
    return specs


def _photo(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise PhotoError(f"{path} cannot be read", found=str(error.strerror), hint="check the path") from error


def _peak(options: LatencyOptions, gpu: str | None) -> Peak | None:
    if options.peak_tflops is not None and options.peak_gbs is not None:
        return Peak(options.peak_tflops, options.peak_gbs, "given on the command line")
    if options.peak_tflops is not None or options.peak_gbs is not None:
        found = f"--peak-tflops {options.peak_tflops}, --peak-gbs {options.peak_gbs}"
        raise RequestError("--peak-tflops and --peak-gbs belong together", found=found, hint="give both or neither")
    return measured_cpu_peak() if options.measure_peak else gpu_peak(gpu)


def _options(options: LatencyOptions, rules: Rules, specs: Sequence[SystemSpec]) -> dict[str, Any]:
    photo = None if options.photo is None else options.photo.name
    reference = next(([spec.device, spec.dtype] for spec in specs if spec.name not in TARGET_OF), None)
    return {**asdict(rules), "scenarios": options.scenarios, "photo": photo, "reference": reference}
