"""Step tables: everything that changes from step to step, as numbers that the networks gather by ``step``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from types import MappingProxyType
from typing import cast

import numpy as np
import numpy.typing as npt

from instantrt.contracts import STEP_COLUMNS
from instantrt.errors import BundleError
from instantrt.request import SamplerName, check_known, check_window, plain_number
from instantrt.samplers.config import Scheduler, SchedulerConfig, Settings
from instantrt.samplers.ddim import DDIM, ddim_rows
from instantrt.samplers.dpmpp import DPM_SOLVER_MULTISTEP, dpmpp_2m_rows
from instantrt.samplers.euler import EULER, EULER_ANCESTRAL, euler_ancestral_rows, euler_rows
from instantrt.samplers.heun import HEUN, heun_rows
from instantrt.samplers.lcm import LCM, lcm_rows
from instantrt.samplers.rows import Row, Rows


@dataclass(frozen=True)
class Sampler:
    """How a sampler's rows are made.

    In diffusers it is ``getattr(diffusers, scheduler.diffusers_class).from_config(config, **overrides)``.
    """

    scheduler: Scheduler
    make_rows: Callable[[Settings, int], Rows]
    overrides: Mapping[str, object]


def _sampler(scheduler: Scheduler, make_rows: Callable[[Settings, int], Rows], **overrides: object) -> Sampler:
    return Sampler(scheduler, make_rows, MappingProxyType(overrides))


def _dpmpp_2m(algorithm_type: str, *, karras: bool) -> Sampler:
    # A name that says 2M, SDE or Karras means it, whatever the checkpoint's own scheduler was.
    return _sampler(
        DPM_SOLVER_MULTISTEP,
        dpmpp_2m_rows,
        algorithm_type=algorithm_type,
        solver_order=2,
        use_karras_sigmas=karras,
    )


SAMPLERS: Mapping[SamplerName, Sampler] = MappingProxyType(
    {
        "euler": _sampler(EULER, euler_rows),
        "euler_ancestral": _sampler(EULER_ANCESTRAL, euler_ancestral_rows),
        "ddim": _sampler(DDIM, ddim_rows),
        "dpmpp_2m": _dpmpp_2m("dpmsolver++", karras=False),
        "dpmpp_2m_karras": _dpmpp_2m("dpmsolver++", karras=True),
        "dpmpp_2m_sde_karras": _dpmpp_2m("sde-dpmsolver++", karras=True),
        "heun": _sampler(HEUN, heun_rows),
        "lcm": _sampler(LCM, lcm_rows),
        "euler_trailing": _sampler(EULER, euler_rows, timestep_spacing="trailing"),
    }
)


@dataclass(frozen=True)
class StepTable:
    """One slot's rows.

    Attributes:
        rows: float32 [n, 10], the columns of ``contracts.STEP_COLUMNS``; n network calls (2 * steps - 1 for Heun).
        timesteps: float32 [n], what the networks are given at each row.
        init_noise_sigma: standard deviation of the first latents.
        noise_draws: how many draws of the picture's shape follow the initial noise in the reference's generator;
            draw i feeds row i.
    """

    rows: npt.NDArray[np.float32]
    timesteps: npt.NDArray[np.float32]
    init_noise_sigma: float
    noise_draws: int


def _table_rows(rows: list[Row], guidance: float, control: list[bool]) -> npt.NDArray[np.float32]:
    columns = {name: [getattr(row, name) for row in rows] for name in Row._fields}
    columns["guidance"] = [guidance] * len(rows)
    columns["control_scale"] = [float(on) for on in control]
    table = np.array([columns[name] for name in STEP_COLUMNS], dtype=np.float32)
    return np.ascontiguousarray(table.T)


def _hold_row() -> npt.NDArray[np.float32]:
    table = _table_rows([Row(1.0, a=1.0, b=0.0, f=1.0)], guidance=1.0, control=[False])
    table.setflags(write=False)
    return table.reshape(-1)


HOLD_ROW: npt.NDArray[np.float32] = _hold_row()
"""float32 [10]: leaves latents and history as they are, for the rows behind a table's last."""


def step_table(
    sampler: str,
    steps: int,
    guidance_scale: float,
    scheduler: SchedulerConfig,
    window: tuple[float, float] = (0.0, 1.0),
) -> StepTable:
    """The step table of one request.

    Args:
        sampler: a name of ``SAMPLERS``.
        steps: denoising steps.
        guidance_scale: classifier-free guidance; the prediction is negative + guidance_scale * (positive - negative).
        scheduler: the checkpoint's scheduler config.
        window: ``control_guidance_start`` and ``control_guidance_end`` of the request.

    Raises:
        RequestError: a value is out of range, or the sampler is unknown.
        BundleError: the sampler cannot be made from this scheduler config.
    """
    check_known("sampler", sampler, SAMPLERS)
    plain_number("steps", steps)
    plain_number("guidance_scale", guidance_scale)
    check_window(*window)
    chosen = SAMPLERS[cast(SamplerName, sampler)]
    settings = scheduler.settings(chosen.scheduler, chosen.overrides)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        rows, timesteps, init_noise_sigma, noise_draws = _made(sampler, chosen, settings, steps)
        table = _table_rows(rows, guidance_scale, _window_rows(len(rows), window))
    if not (np.isfinite(table).all() and isfinite(init_noise_sigma)):
        raise _not_finite(sampler, settings)
    return StepTable(table, timesteps.astype(np.float32), float(init_noise_sigma), noise_draws)


def _made(sampler: str, chosen: Sampler, settings: Settings, steps: int) -> Rows:
    try:
        return chosen.make_rows(settings, steps)
    except ArithmeticError:
        raise _not_finite(sampler, settings) from None


def _not_finite(sampler: str, settings: Settings) -> BundleError:
    return BundleError(
        f"the scheduler config gives the sampler {sampler} steps that are not finite",
        found=f"prediction_type={settings.prediction_type!r}, rescale_betas_zero_snr="
        f"{settings.rescale_betas_zero_snr}, timestep_spacing={settings.timestep_spacing!r}",
        hint="zero terminal SNR needs prediction_type v_prediction, or a sampler such as euler that clamps it",
    )


def _window_rows(count: int, window: tuple[float, float]) -> list[bool]:
    """Which rows IdentityNet is on for; the comparison is the one of diffusers' ControlNet pipelines."""
    start, end = window
    return [not (i / count < start or (i + 1) / count > end) for i in range(count)]
