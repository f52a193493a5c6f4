"""Multistep sampling of Latent Consistency Models: algorithm 3 of Luo et al. (2023)."""

from __future__ import annotations

import numpy as np

from instantrt.samplers.config import Scheduler, Settings
from instantrt.samplers.rows import Row, Rows, denoised_from_alpha
from instantrt.samplers.schedule import F64, alphas_cumprod

LCM = Scheduler(
    "LCMScheduler",
    {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "trained_betas": None,
        "original_inference_steps": 50,
        "clip_sample": False,
        "clip_sample_range": 1.0,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "prediction_type": "epsilon",
        "thresholding": False,
        "dynamic_thresholding_ratio": 0.995,
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "timestep_scaling": 10.0,
        "rescale_betas_zero_snr": False,
    },
)

_SIGMA_DATA = 0.5


def lcm_rows(settings: Settings, steps: int) -> Rows:
    """x' = alpha' consistent + sigma' z, and on the last step, which draws no noise, x' = consistent.

    The consistent latents are c_skip * x + c_out * x0 (the boundary condition of the consistency model).
    """
    timesteps = _timesteps(settings, steps)
    alphas = alphas_cumprod(settings).astype(np.float64)[timesteps.astype(int)]
    rows = []
    for i, (timestep, alpha_cumprod) in enumerate(zip(timesteps, alphas, strict=True)):
        x0 = denoised_from_alpha(settings.prediction_type, alpha_cumprod**0.5, (1 - alpha_cumprod) ** 0.5)
        scaled = timestep * settings.timestep_scaling
        c_skip = _SIGMA_DATA**2 / (scaled**2 + _SIGMA_DATA**2)
        c_out = scaled / (scaled**2 + _SIGMA_DATA**2) ** 0.5
        next_alpha_cumprod = alphas[i + 1] if i + 1 < steps else 1.0
        alpha, sigma = next_alpha_cumprod**0.5, (1 - next_alpha_cumprod) ** 0.5
        rows.append(Row(1.0, a=alpha * (c_out * x0.of_x + c_skip), b=alpha * c_out * x0.of_eps, s=sigma))
    return Rows(rows, timesteps, noise_draws=steps - 1)


def _timesteps(settings: Settings, steps: int) -> F64:
    """An even choice from the schedule that the model was distilled on.

    That schedule has ``original_inference_steps`` entries. diffusers refuses more steps than that; here it grows with
    the steps asked for, as if ``original_inference_steps=max(original_inference_steps, steps)`` had been passed.
    """
    original = max(settings.original_inference_steps, steps)
    distilled = np.arange(1, original + 1) * (settings.num_train_timesteps // original) - 1
    chosen = np.floor(np.linspace(0, original, num=steps, endpoint=False)).astype(int)
    return np.asarray(distilled[::-1][chosen], dtype=np.float64)
