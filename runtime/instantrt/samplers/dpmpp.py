"""DPM-Solver++ (2M), as an ODE and as an SDE solver.

Lu et al. (2022), "DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models", algorithm 2 and
its stochastic variant. The history tensor holds the denoised latents of the step before.
"""

from __future__ import annotations

from math import exp, expm1, inf, log
from typing import NamedTuple

import numpy as np

from instantrt.samplers.config import Scheduler, Settings
from instantrt.samplers.rows import Row, Rows, denoised_from_alpha
from instantrt.samplers.schedule import (
    F32,
    F64,
    as_float32,
    checked_timesteps,
    clamped_alphas_cumprod,
    final_sigma,
    interpolated_sigmas,
    karras_sigmas,
    sigmas_of,
    spaced_timesteps,
    timesteps_of_sigmas,
    trailing_timesteps,
)

DPM_SOLVER_MULTISTEP = Scheduler(
    "DPMSolverMultistepScheduler",
    {
        "num_train_timesteps": 1000,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "trained_betas": None,
        "solver_order": 2,
        "prediction_type": "epsilon",
        "thresholding": False,
        "dynamic_thresholding_ratio": 0.995,
        "sample_max_value": 1.0,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "lower_order_final": True,
        "euler_at_final": False,
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "use_lu_lambdas": False,
        "use_flow_sigmas": False,
        "flow_shift": 1.0,
        "final_sigmas_type": "zero",
        "lambda_min_clipped": -inf,
        "variance_type": None,
        "timestep_spacing": "linspace",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
        "use_dynamic_shifting": False,
        "time_shift_type": "exponential",
    },
)

_SHORT_RUN = 15  # below this many steps ``lower_order_final`` applies


class _Level(NamedTuple):
    """A noise level: x = alpha * x0 + sigma * noise, lambda = log(alpha / sigma)."""

    alpha: float
    sigma: float
    lam: float


class _Update(NamedTuple):
    """x' = of_x * x + of_x0 * x0 + of_change * (x0 - x0 of the step before) + noise * z."""

    of_x: float
    of_x0: float
    of_change: float
    noise: float


def dpmpp_2m_rows(settings: Settings, steps: int) -> Rows:
    """First order on the first step and, mostly, on the last; second order in between."""
    timesteps, sigmas = _path(settings, steps)
    levels = [_level(sigma) for sigma in sigmas]
    count = len(timesteps)
    rows = []
    for i in range(count):
        first_order = i == 0 or (i == count - 1 and _ends_first_order(settings, count))
        before = None if first_order else levels[i - 1]
        rows.append(_row(settings, before, levels[i], levels[i + 1]))
    return Rows(rows, timesteps, noise_draws=count if _is_sde(settings) else 0)


def _is_sde(settings: Settings) -> bool:
    return settings.algorithm_type == "sde-dpmsolver++"


def _ends_first_order(settings: Settings, count: int) -> bool:
    short = settings.lower_order_final and count < _SHORT_RUN
    return short or settings.euler_at_final or settings.final_sigmas_type == "zero"


def _path(settings: Settings, steps: int) -> tuple[F64, F64]:
    """Timesteps [n], whole numbers, and sigmas [n + 1]."""
    alphas = clamped_alphas_cumprod(settings)
    train_sigmas = sigmas_of(alphas)
    if settings.use_karras_sigmas:
        sigmas = karras_sigmas(settings, float(train_sigmas[-1]), float(train_sigmas[0]), steps)
        timesteps = timesteps_of_sigmas(sigmas, train_sigmas)
        cosine = settings.beta_schedule == "squaredcos_cap_v2"
        timesteps = np.trunc(timesteps) if cosine else np.round(timesteps)
    else:
        timesteps = checked_timesteps(_uniform_timesteps(settings, alphas, steps), settings)
        sigmas = interpolated_sigmas(timesteps, train_sigmas)
    return timesteps, as_float32(np.append(sigmas, final_sigma(settings, alphas)))


def _uniform_timesteps(settings: Settings, alphas: F32, steps: int) -> F64:
    """One more timestep than there are steps is spaced out and the lowest one, where the run ends, is left out."""
    lambdas = np.log(np.sqrt(alphas)) - np.log(np.sqrt(np.float32(1) - alphas))
    last = settings.num_train_timesteps - int(np.searchsorted(lambdas[::-1], settings.lambda_min_clipped))
    if settings.timestep_spacing == "trailing":
        return trailing_timesteps(last, settings.num_train_timesteps / steps, steps)
    return np.round(spaced_timesteps(settings, steps + 1, last)[:-1])


def _level(sigma: float) -> _Level:
    alpha = 1.0 / (sigma * sigma + 1.0) ** 0.5
    return _Level(alpha, sigma * alpha, -log(sigma) if sigma > 0 else inf)


def _row(settings: Settings, before: _Level | None, here: _Level, there: _Level) -> Row:
    x0 = denoised_from_alpha(settings.prediction_type, here.alpha, here.sigma)
    update = _update(settings, before, here, there)
    of_x0 = update.of_x0 + update.of_change
    return Row(
        1.0,
        a=update.of_x + of_x0 * x0.of_x,
        b=of_x0 * x0.of_eps,
        c=-update.of_change,
        s=update.noise,
        d=x0.of_x,
        e=x0.of_eps,
    )


def _update(settings: Settings, before: _Level | None, here: _Level, there: _Level) -> _Update:
    """The SDE solver has 2h for h in the ODE solver's x0 terms and replaces what it forgets by noise."""
    h = there.lam - here.lam
    ratio = there.sigma / here.sigma
    span = 2 * h if _is_sde(settings) else h
    of_x = ratio * exp(-h) if _is_sde(settings) else ratio
    of_x0 = -there.alpha * expm1(-span)
    noise = there.sigma * max(-expm1(-2 * h), 0.0) ** 0.5 if _is_sde(settings) else 0.0
    if before is None:
        return _Update(of_x, of_x0, 0.0, noise)
    # change / r0 is the slope of x0 in units of h, with r0 = (lambda - lambda before) / h
    inverse_r0 = h / (here.lam - before.lam)
    half = 0.5 * of_x0 if settings.solver_type == "midpoint" else there.alpha * (expm1(-span) / span + 1)
    return _Update(of_x, of_x0, half * inverse_r0, noise)
