"""`instantrt bench latency`: scenarios on systems, written to a result file after each."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
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
from instantrt_bench.latency.roofline import Bounds, Peak, gpu_peak, measured_cpu_peaks, stage_costs
from instantrt_bench.latency.scenario import Requests, Scenario, load_scenarios
from instantrt_bench.latency.summary import latency_summary, scenario_result
from instantrt_bench.latency.systems import Opener, SystemSpec, open_system
from instantrt_bench.regression.history import keep
from instantrt_bench.results.files import ResultError, ResultFile, ScenarioResult, read_results
from instantrt_bench.results.machine import system_threads
from instantrt_bench.results.systems import REFERENCE_EAGER, REFERENCES, RUNTIME_ONNXRUNTIME, SYSTEMS, SystemRow
from instantrt_bench.results.tables import scenario_table

SAME_TO_APPEND = ("machine", "versions", "threads", "commit", "bundle", "options")
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
    of_runtime_first = sorted(specs, key=lambda spec: spec.name in REFERENCES)
    gpu = next((gpus[spec.name] for spec in of_runtime_first if spec.name in gpus), None)
    results = _results(options, bundle, rules, specs, {} if gpu is None else gpu.facts())
    peaks = _peaks(options, specs, results.machine.get("gpu"))
    with Fleet(specs, opener) as fleet, ProgressDisplay() as display:
        for scenario in scenarios:
            measurement = measure(fleet, scenario, requests, rules, gpus=gpus, on_round=display.task(scenario.id))
            bounds = {spec.name: _bounds(bundle, scenario, spec, peaks) for spec in specs}
            measured = scenario_result(measurement, results.scenario(scenario.id), bounds)
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
            if name in REFERENCES or (ratio is None and overhead_us is None):
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
    rows = [SYSTEMS[name] for name in dict.fromkeys(options.systems or default)]
    _check_reference(options, [row for row in rows if row.kind == "reference"], precision)
    reference_device = options.reference_device or (GPU if any(row.on_gpu for row in rows) else CPU)

    def spec(row: SystemRow) -> SystemSpec:
        asked, device = (
            (options.reference_dtype, reference_device)
            if row.kind == "reference"
            else (None, GPU if row.on_gpu else CPU)
        )
        dtype = row.dtype or asked or precision
        return SystemSpec(row.id, options.bundle, options.checkpoint, options.threads, device, dtype)

    return [spec(row) for row in rows]


def _check_reference(options: LatencyOptions, rows: Sequence[SystemRow], precision: Precision) -> None:
    """Refuse what no reference can do, and a dtype that none takes or that another has already."""
    asked = options.reference_dtype
    if rows and options.checkpoint is None:
        what = "the reference needs the checkpoint that the bundle was made from"
        raise RequestError(what, found="no --checkpoint", hint="name its folder or hub id with --checkpoint")
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", options.reference_device or CPU):
        what, hint = "the reference runs on a CPU or on an NVIDIA GPU", "use cpu, cuda, or cuda:1 for the second GPU"
        raise RequestError(what, found=f"--reference-device {options.reference_device}", hint=hint)
    if asked is not None and all(row.dtype is not None for row in rows):
        found = ", ".join(row.id for row in rows) or "no reference among the systems"
        hint = f"leave it out, or measure {REFERENCE_EAGER} too, which computes in what it names"
        raise RequestError("--reference-dtype changes none of these systems", found=found, hint=hint)
    alike = Counter((row.compiled, row.dtype or asked or precision) for row in rows)
    twice = [row.id for row in rows if alike[row.compiled, row.dtype or asked or precision] > 1]
    if twice:
        hint = "leave one of them out, or name another --reference-dtype"
        raise RequestError("two of these systems are the same", found=" and ".join(twice), hint=hint)


def _photo(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise PhotoError(f"{path} cannot be read", found=str(error.strerror), hint="check the path") from error


def _peaks(options: LatencyOptions, specs: Sequence[SystemSpec], gpu: str | None) -> dict[str, Peak | None]:
    """By system: as given, measured in its dtype, or off the GPU's data sheet."""
    given = (options.peak_tflops, options.peak_gbs)
    if None in given and given != (None, None):
        found = f"--peak-tflops {options.peak_tflops}, --peak-gbs {options.peak_gbs}"
        raise RequestError("--peak-tflops and --peak-gbs belong together", found=found, hint="give both or neither")
    if options.peak_tflops is not None and options.peak_gbs is not None:
        peak = Peak(options.peak_tflops, options.peak_gbs, "given on the command line")
        return {spec.name: peak for spec in specs}
    on_cpu = [spec for spec in specs if spec.device == CPU and options.measure_peak]
    assert options.threads is not None  # run_latency has counted them
    measured = measured_cpu_peaks([spec.dtype for spec in on_cpu], options.threads)
    return {spec.name: measured[spec.dtype] if spec in on_cpu else gpu_peak(gpu) for spec in specs}


def _bounds(bundle: Bundle, scenario: Scenario, spec: SystemSpec, peaks: Mapping[str, Peak | None]) -> Bounds:
    """The runtime computes as many samples at once as the bundle has slots, the reference all."""
    slots = bundle.manifest.slots[1]
    batch = scenario.samples if spec.name in REFERENCES else min(scenario.samples, slots)
    return Bounds(stage_costs(bundle, scenario, batch, spec.dtype), peaks[spec.name])


def _options(options: LatencyOptions, rules: Rules, specs: Sequence[SystemSpec]) -> dict[str, Any]:
    photo = None if options.photo is None else options.photo.name
    reference = next(([spec.device, spec.dtype] for spec in specs if spec.name in REFERENCES), None)
    return {**asdict(rules), "scenarios": options.scenarios, "photo": photo, "reference": reference}
