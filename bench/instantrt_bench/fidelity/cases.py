"""Fidelity over networks and cases: how far the runtime is from the reference, and whether that is too far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt import GenerateResult, InstantID
from instantrt.cli.outputs import save_picture
from instantrt_bench.cases.cases import Case
from instantrt_bench.fidelity.lpips_distance import Distance
from instantrt_bench.fidelity.networks import NetworkErrors
from instantrt_bench.fidelity.pair import reference_inputs
from instantrt_bench.reference.pipeline import Reference, ReferenceResult
from instantrt_bench.results.attempts import attempt
from instantrt_bench.results.contact_sheet import Tile, amplified_difference, contact_sheet
from instantrt_bench.results.files import ScenarioResult, SystemResult
from instantrt_bench.results.metrics import cosine, psnr_db, relative_error, ssim
from instantrt_bench.results.pictures import PictureFolder
from instantrt_bench.results.systems import BF16_FLOOR_DB, REFERENCE_EAGER
from instantrt_export.parity import PARITY_LIMITS, ComputedIn

Latents = npt.NDArray[np.float32]

DIFFERENCE_GAIN = 64


@dataclass(frozen=True)
class Limits:
    """What is too far.

    Args:
        latents_error: largest relative error of the latents after any network call.
        psnr_db: smallest PSNR of any picture.
    """

    latents_error: float
    psnr_db: float


LIMITS: Mapping[ComputedIn, Limits] = {
    "fp32": Limits(1e-3, 50.0),
    "fp16": Limits(5e-2, 30.0),
    "bf16": Limits(0.2, BF16_FLOOR_DB),
}
"""fp32 and bf16 as measured on nano with room to spare; fp16 is a guess until it was measured with real weights."""


def network_scenario(network: str, measured: NetworkErrors, system: str) -> ScenarioResult:
    """What one network's parity says, as a scenario of a result file."""
    comparison = {
        "relative_error": _finite(measured.error),
        "against": measured.against,
        "limits": asdict(PARITY_LIMITS[measured.draws[0].computed_in]),
        "failures": [f"{name}: {_describe(output)}" for name, output in measured.failures.items()],
        "within_limits": not measured.failures,
    }
    samples = {"relative_error": {name: [_finite(e) for e in errors] for name, errors in measured.samples.items()}}
    return ScenarioResult(
        network_id(network),
        {"network": network, "symbols": measured.sizes, "draws": len(measured.draws)},
        {system: SystemResult("ok", samples=samples)},
        comparison,
    )


def network_id(network: str) -> str:
    """The scenario id of a network."""
    return f"network={network}"


def case_scenario(
    runtime: InstantID,
    reference: Reference,
    case: Case,
    system: str,
    limits: Limits,
    pictures: PictureFolder,
    lpips: Distance | None = None,
) -> ScenarioResult:
    """Make one case's picture with both systems and compare latents after every call and the pictures.

    A system that fails is reported as failed; then there is nothing to compare and the case is not within limits.
    """
    ours = attempt(lambda: runtime.run(case.request, keep_latents=True))
    theirs = attempt(lambda: reference.generate(reference_inputs(runtime.prepare(case.request)), keep_latents=True))
    comparison: dict[str, Any] = {"within_limits": False, "failures": ["a system failed"]}
    if ours.value is not None and theirs.value is not None:
        comparison = compare_results(ours.value, theirs.value, limits, lpips)
        kept = pictures.keep(case.id, {"runtime": ours.value.pixels[0], "reference": theirs.value.images[0]})
        comparison["pictures"] = {"photo": pictures.keep_photo(case.photo.id, case.photo_file), **kept}
    return ScenarioResult(case.id, case.parameters, {system: ours.result, REFERENCE_EAGER: theirs.result}, comparison)


def compare_results(
    ours: GenerateResult, theirs: ReferenceResult, limits: Limits, lpips: Distance | None = None
) -> dict[str, Any]:
    """Distances of two results of one request, and which of them are beyond the limits."""
    if ours.latents_per_call is None or theirs.latents_per_call is None:
        raise ValueError("both results need the latents of every network call")
    steps = list(zip(ours.latents_per_call, theirs.latents_per_call, strict=True))
    errors = [relative_error(a, b) for a, b in steps]
    worst = max(errors) if np.isfinite(errors).all() else float("inf")
    psnr = psnr_db(ours.pixels, theirs.images)
    figures: dict[str, Any] = {
        "latents_relative_error_per_call": [_finite(e) for e in errors],
        "latents_cosine_per_call": [_cosine(a, b) for a, b in steps],
        "latents_relative_error": _finite(worst),
        "psnr_db": psnr,
        "ssim": ssim(ours.pixels, theirs.images),
        "lpips": None if lpips is None else max(map(lpips, ours.pixels, theirs.images)),
    }
    failures = []
    if not worst <= limits.latents_error:
        call = int(np.argmax([not e <= limits.latents_error for e in errors])) + 1
        failures.append(f"latents {worst:.1e} apart, beyond {limits.latents_error:g} from network call {call} on")
    if not psnr >= limits.psnr_db:
        failures.append(f"PSNR {psnr:.1f} dB, below {limits.psnr_db:g} dB")
    return {**figures, "limits": asdict(limits), "failures": failures, "within_limits": not failures}


def summarise_fidelity(
    scenarios: Sequence[ScenarioResult], *, complete: bool, lpips_missing: str | None
) -> dict[str, Any]:
    """The verdict and the worst cases by name.

    ``verdict`` is "fail" if anything is too far or failed to run, else "pass", or "interrupted" if not ``complete``.
    """
    networks = [s for s in scenarios if "network" in s.parameters]
    cases = [s for s in scenarios if "network" not in s.parameters]
    outside = [s for s in scenarios if not s.comparison.get("within_limits")]
    measured = [s for s in cases if "psnr_db" in s.comparison]
    compared = [s for s in networks if "relative_error" in s.comparison]
    worst = min(measured, key=lambda s: _badness(s.comparison), default=None)
    worst_network = max(compared, key=_excess, default=None)
    return {
        "verdict": "fail" if outside else "pass" if complete else "interrupted",
        "failures": {s.id: s.comparison.get("failures") or _errors(s) for s in outside},
        "networks": len(networks),
        "cases": len(cases),
        "cases_compared": len(measured),
        "worst_network": worst_network and worst_network.parameters["network"],
        "worst_network_error": worst_network and worst_network.comparison["relative_error"],
        "worst_case": worst and worst.id,
        "worst_psnr_db": min((s.comparison["psnr_db"] for s in measured), default=None),
        "worst_ssim": min((s.comparison["ssim"] for s in measured), default=None),
        "worst_latents_error": _worst_latents(measured),
        "worst_lpips": max(
            (s.comparison["lpips"] for s in measured if s.comparison["lpips"] is not None), default=None
        ),
        "lpips_missing": lpips_missing,
        "median_psnr_db": float(np.median([s.comparison["psnr_db"] for s in measured])) if measured else None,
    }


def save_worst_case(scenario: ScenarioResult, pictures: PictureFolder, path: Path) -> None:
    """The worst case as one picture: photo, both pictures and their difference, with the figures."""
    kept = {role: pictures.load(file) for role, file in scenario.comparison["pictures"].items()}
    figures = scenario.comparison
    ours, theirs = kept["runtime"], kept["reference"]
    largest = int(np.abs(ours.astype(int) - theirs.astype(int)).max())
    tiles = [
        Tile("photo", kept["photo"], str(scenario.parameters["licence"])),
        Tile("runtime", ours),
        Tile("reference", theirs),
        Tile(
            f"difference x {DIFFERENCE_GAIN}",
            amplified_difference(ours, theirs, DIFFERENCE_GAIN),
            f"largest: {largest} of 255 grey levels",
        ),
    ]
    error = figures["latents_relative_error"]
    latents = "not finite" if error is None else f"{error:.1e}"
    title = f"Worst case   PSNR {figures['psnr_db']:.1f} dB   SSIM {figures['ssim']:.4f}   latents {latents}"
    save_picture(contact_sheet(tiles, title, scenario.id), path)


def failed_scenario(scenario_id: str, parameters: dict[str, Any], system: str, error: str) -> ScenarioResult:
    """A scenario of which nothing could be measured."""
    systems = {system: SystemResult("failed", error)}
    return ScenarioResult(scenario_id, parameters, systems, {"within_limits": False, "failures": [error]})


def with_limits(limits: Limits, latents_error: float | None, psnr_db: float | None) -> Limits:
    """``limits`` with those replaced that were given."""
    given = {"latents_error": latents_error, "psnr_db": psnr_db}
    return replace(limits, **{name: value for name, value in given.items() if value is not None})


def _cosine(a: Latents, b: Latents) -> float | None:
    """None where there is no angle: latents that are zero or not finite."""
    try:
        return cosine(a, b)
    except ValueError:
        return None


def _finite(value: float) -> float | None:
    """JSON has neither infinity nor NaN."""
    return value if np.isfinite(value) else None


def _describe(output: Any) -> str:
    if output.grey_levels is None:
        return f"relative error {output.relative_error:.1e}"
    return f"{output.grey_levels} grey levels, {output.grey_share:.1%} of the values"


def _badness(comparison: Mapping[str, Any]) -> tuple[bool, float, float]:
    """Smallest for the worst case: not finite first, then the lowest PSNR, then the largest error."""
    error = comparison["latents_relative_error"]
    return (error is not None, comparison["psnr_db"], -(error or 0.0))


def _excess(scenario: ScenarioResult) -> tuple[bool, float]:
    """Largest for the worst network: beyond its limits first, then by error; u8 outputs count by their limits only."""
    error = scenario.comparison["relative_error"]
    return (bool(scenario.comparison["failures"]), float("inf") if error is None else error)


def _worst_latents(measured: Sequence[ScenarioResult]) -> float | None:
    errors = [s.comparison["latents_relative_error"] for s in measured]
    return None if not errors or None in errors else max(errors)


def _errors(scenario: ScenarioResult) -> list[str]:
    return [f"{name}: {result.error or result.status}" for name, result in scenario.systems.items() if result.error]
