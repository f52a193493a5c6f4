"""`instantrt bench fidelity`: networks, latents and pictures of the runtime against the reference."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from instantrt.cli.command import ExitStatus, ProgressDisplay, print_json
from instantrt.engine import Target
from instantrt.targets import open_target
from instantrt_bench.cases.loading import Loaded, load_cases, pipelines
from instantrt_bench.fidelity.arguments import FidelityOptions
from instantrt_bench.fidelity.cases import (
    LIMITS,
    Limits,
    case_scenario,
    failed_scenario,
    network_id,
    network_scenario,
    save_worst_case,
    summarise_fidelity,
    with_limits,
)
from instantrt_bench.fidelity.lpips_distance import find_lpips
from instantrt_bench.fidelity.networks import network_errors
from instantrt_bench.results.attempts import attempt
from instantrt_bench.results.files import ResultFile, ScenarioResult
from instantrt_bench.results.pictures import PictureFolder


def run_fidelity(options: FidelityOptions) -> ExitStatus:
    """Measure, write the result file after every scenario, report: ``MISSED`` if something is too far."""
    loaded = load_cases(options, options.seeds, options.samplers)
    limits = with_limits(LIMITS[loaded.computed_in], options.max_latents_error, options.min_psnr)
    lpips = find_lpips()
    recorded = loaded.options | {"draws": options.draws, "limits": vars(limits)}
    results = ResultFile.new("fidelity", bundle=loaded.bundle, threads=loaded.threads, options=recorded)
    pictures, complete = PictureFolder(options.out), False
    distance = None if isinstance(lpips, str) else lpips
    try:
        with ProgressDisplay() as display:
            for scenario in _scenarios(options, loaded, limits, pictures, distance, display):
                results = results.with_scenario(scenario)
                results.write(options.out)
        complete = True
    finally:
        missing = lpips if isinstance(lpips, str) else None
        summary = summarise_fidelity(results.scenarios, complete=complete, lpips_missing=missing)
        results = _finished(results, summary, options.out, pictures)
    _report(results, options)
    return ExitStatus.DONE if results.summary["verdict"] == "pass" else ExitStatus.MISSED


def _scenarios(
    options: FidelityOptions,
    loaded: Loaded,
    limits: Limits,
    pictures: PictureFolder,
    lpips: Any,
    display: ProgressDisplay,
) -> Iterator[ScenarioResult]:
    networks = list(loaded.bundle.manifest.networks)
    total = len(networks) + len(loaded.cases)
    progress = display.task("fidelity")
    with closing(open_target(loaded.target, loaded.bundle, loaded.target_options)) as target:
        for done, network in enumerate(networks):
            progress(done, total)
            yield _network(loaded, target, network, options.draws)
    with pipelines(loaded) as (runtime, reference):
        for done, case in enumerate(loaded.cases, len(networks)):
            progress(done, total)
            yield case_scenario(runtime, reference, case, loaded.system, limits, pictures, lpips)
    progress(total, total)


def _network(loaded: Loaded, target: Target, network: str, draws: int) -> ScenarioResult:
    rng = np.random.default_rng()
    measured = attempt(
        lambda: network_errors(
            loaded.bundle, target, loaded.checkpoint, network, draws=draws, rng=rng, computed_in=loaded.computed_in
        )
    )
    if measured.value is None:
        return failed_scenario(network_id(network), {"network": network}, loaded.system, measured.error or "failed")
    return network_scenario(network, measured.value, loaded.system)


def _finished(results: ResultFile, summary: dict[str, Any], out: Path, pictures: PictureFolder) -> ResultFile:
    """With the summary, and the worst case as a picture beside the file."""
    worst = results.scenario(summary["worst_case"] or "")
    if worst is not None:
        path = out.with_name(f"{out.stem}-worst.png")
        save_worst_case(worst, pictures, path)
        summary["worst_picture"] = path.name
    results = replace(results, summary=summary)
    results.write(out)
    return results


def _report(results: ResultFile, options: FidelityOptions) -> None:
    summary = results.summary
    if options.json:
        print_json(summary)
        return
    lines = [f"{len(results.scenarios)} scenarios: {summary['networks']} networks, {summary['cases']} cases"]
    for scenario in results.scenarios:
        if "network" in scenario.parameters:
            error = scenario.comparison.get("relative_error")
            text = "failed" if error is None else f"{error:.1e}"
            lines.append(f"  {scenario.parameters['network']:<18} {text}")
    if summary["worst_case"]:
        lines.append(f"worst case {summary['worst_case']}")
        lines.append(
            f"  PSNR at least {summary['worst_psnr_db']:.1f} dB, SSIM at least {summary['worst_ssim']:.5f}, "
            f"latents at most {summary['worst_latents_error'] or float('nan'):.1e} apart"
        )
        lines.append(f"  {options.out.with_name(summary['worst_picture'])}")
    lines += [f"TOO FAR {name}: {'; '.join(why)}" for name, why in summary["failures"].items()]
    lines.append(f"verdict: {summary['verdict']}")
    lines.append(str(options.out))
    sys.stdout.write("\n".join(lines) + "\n")
