"""Euler and Euler ancestral: Algorithm 2 without churn of Karras et al. (2022), and its ancestral variant."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from instantrt.samplers.config import Scheduler, Settings
from instantrt.samplers.rows import Row, Rows, denoised_from_sigma, input_scale_of
from instantrt.samplers.schedule import (
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
)

EULER = Scheduler(
    "EulerDiscreteScheduler",
    {
        "num_train_timesteps": 1000,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "trained_betas": None,
        "prediction_type": "epsilon",
        "interpolation_type": "linear",
        "use_karras_sigmas": False,
        "use_exponential_sigmas": False,
        "use_beta_sigmas": False,
        "sigma_min": None,
        "sigma_max": None,
        "timestep_spacing": "linspace",
        "timestep_type": "discrete",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
        "final_sigmas_type": "zero",
    },
)

EULER_ANCESTRAL = Scheduler(
    "EulerAncestralDiscreteScheduler",
    {
        "num_train_timesteps": 1000,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "trained_betas": None,
        "prediction_type": "epsilon",
        "timestep_spacing": "linspace",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
    },
)


def sigma_path(settings: Settings, steps: int) -> tuple[F64, F64]:
    """Timesteps [steps] and sigmas [steps + 1] (the last one is where the run ends), shared with Heun."""
    alphas = clamped_alphas_cumprod(settings)
    train_sigmas = sigmas_of(alphas)
    timesteps = as_float32(spaced_timesteps(settings, steps, settings.num_train_timesteps))
    sigmas = interpolated_sigmas(checked_timesteps(timesteps, settings), train_sigmas)
    if settings.use_karras_sigmas:
        sigmas = karras_sigmas(settings, sigmas[0], sigmas[-1], steps)
        timesteps = timesteps_of_sigmas(sigmas, train_sigmas)
    return timesteps, as_float32(np.append(sigmas, final_sigma(settings, alphas)))


def init_noise_sigma(settings: Settings, sigmas: F64) -> float:
    """Standard deviation of the first latents: "leading" keeps unit signal variance beside the largest sigma."""
    largest = float(sigmas.max())
    return (largest**2 + 1) ** 0.5 if settings.timestep_spacing == "leading" else largest


def euler_rows(settings: Settings, steps: int) -> Rows:
    """x' = x + (sigma' - sigma) (x - x0) / sigma."""
    timesteps, sigmas = sigma_path(settings, steps)
    rows = [_euler_row(settings, sigmas[i], sigmas[i + 1]) for i in range(steps)]
    return Rows(rows, timesteps, init_noise_sigma(settings, sigmas))


def euler_ancestral_rows(settings: Settings, steps: int) -> Rows:
    """An Euler step down to sigma_down, then noise of sigma_up; the last step draws noise too, and scales it by 0."""
    timesteps, sigmas = sigma_path(settings, steps)
    rows = []
    for sigma, sigma_next in pairwise(sigmas):
        sigma_up = (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2) ** 0.5
        sigma_down = (sigma_next**2 - sigma_up**2) ** 0.5
        rows.append(_euler_row(settings, sigma, sigma_down)._replace(s=sigma_up))
    return Rows(rows, timesteps, init_noise_sigma(settings, sigmas), noise_draws=steps)


def _euler_row(settings: Settings, sigma: float, sigma_next: float) -> Row:
    x0 = denoised_from_sigma(settings.prediction_type, sigma)
    slope = (sigma_next - sigma) / sigma
    return Row(input_scale_of(sigma), a=1 + slope * (1 - x0.of_x), b=-slope * x0.of_eps)
