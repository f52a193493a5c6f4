"""DDIM with eta 0: equation 12 of "Denoising Diffusion Implicit Models" (Song et al., 2020)."""

from __future__ import annotations

import numpy as np

from instantrt.samplers.config import Scheduler, Settings
from instantrt.samplers.rows import Row, Rows, denoised_from_alpha
from instantrt.samplers.schedule import alphas_cumprod, checked_timesteps, spaced_timesteps

DDIM = Scheduler(
    "DDIMScheduler",
    {
        "num_train_timesteps": 1000,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "trained_betas": None,
        "clip_sample": True,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "prediction_type": "epsilon",
        "thresholding": False,
        "dynamic_thresholding_ratio": 0.995,
        "clip_sample_range": 1.0,
        "sample_max_value": 1.0,
        "timestep_spacing": "leading",
        "rescale_betas_zero_snr": False,
    },
)


def ddim_rows(settings: Settings, steps: int) -> Rows:
    """x' = alpha' x0 + sigma' noise, both read off the prediction.

    As in diffusers the timestep stepped to is ``num_train_timesteps // steps`` below, whatever the spacing.
    """
    alphas = alphas_cumprod(settings).astype(np.float64)
    final = 1.0 if settings.set_alpha_to_one else float(alphas[0])
    spaced = np.round(spaced_timesteps(settings, steps, settings.num_train_timesteps))
    timesteps = checked_timesteps(spaced, settings)
    stride = settings.num_train_timesteps // steps
    rows = []
    for timestep in timesteps.astype(int):
        previous = timestep - stride
        rows.append(_row(settings, alphas[timestep], alphas[previous] if previous >= 0 else final))
    return Rows(rows, timesteps)


def _row(settings: Settings, alpha_cumprod: float, next_alpha_cumprod: float) -> Row:
    alpha, sigma = alpha_cumprod**0.5, (1 - alpha_cumprod) ** 0.5
    next_alpha, next_sigma = next_alpha_cumprod**0.5, (1 - next_alpha_cumprod) ** 0.5
    x0 = denoised_from_alpha(settings.prediction_type, alpha, sigma)
    noise_of_x, noise_of_eps = (0.0, 1.0) if settings.prediction_type == "epsilon" else (sigma, alpha)
    return Row(
        1.0,
        a=next_alpha * x0.of_x + next_sigma * noise_of_x,
        b=next_alpha * x0.of_eps + next_sigma * noise_of_eps,
    )
