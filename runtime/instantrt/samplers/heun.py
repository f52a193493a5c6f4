"""Heun's second-order method: Algorithm 2 of Karras et al. (2022) without churn, two network calls a step."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from instantrt.samplers.config import Scheduler, Settings
from instantrt.samplers.euler import init_noise_sigma, sigma_path
from instantrt.samplers.rows import Row, Rows, denoised_from_sigma, input_scale_of

HEUN = Scheduler(
    "HeunDiscreteScheduler",
    {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "linear",
        "trained_betas": None,
        "prediction_type": "epsilon",
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "clip_sample": False,
        "clip_sample_range": 1.0,
        "timestep_spacing": "linspace",
        "steps_offset": 0,
    },
)


def heun_rows(settings: Settings, steps: int) -> Rows:
    """2 * steps - 1 rows: predictor and corrector a step, but for the last, which ends at sigma 0 and has no slope."""
    timesteps, sigmas = sigma_path(settings, steps)
    rows: list[Row] = []
    for sigma, sigma_next in pairwise(sigmas[:-1]):
        rows += [_predictor(settings, sigma, sigma_next), _corrector(settings, sigma, sigma_next)]
    rows.append(_predictor(settings, sigmas[-2], sigmas[-1]))
    called = np.concatenate([timesteps[:1], np.repeat(timesteps[1:], 2)])
    return Rows(rows, called, init_noise_sigma(settings, sigmas))


def _predictor(settings: Settings, sigma: float, sigma_next: float) -> Row:
    """An Euler step; the history keeps x plus half of it, which is all that the corrector needs of the past."""
    x0 = denoised_from_sigma(settings.prediction_type, sigma)
    slope = (sigma_next - sigma) / sigma
    of_x, of_eps = slope * (1 - x0.of_x), -slope * x0.of_eps
    return Row(input_scale_of(sigma), a=1 + of_x, b=of_eps, d=1 + of_x / 2, e=of_eps / 2)


def _corrector(settings: Settings, sigma: float, sigma_next: float) -> Row:
    """The history plus the other half of the step, with the slope at its end."""
    x0 = denoised_from_sigma(settings.prediction_type, sigma_next)
    slope = (sigma_next - sigma) / sigma_next / 2
    return Row(input_scale_of(sigma_next), a=slope * (1 - x0.of_x), b=-slope * x0.of_eps, c=1.0)
