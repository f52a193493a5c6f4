"""Noise schedules: betas, cumulative alphas, sigmas and the timesteps that a sampler visits.

The training schedule (betas to cumulative alphas) is rounded to float32 exactly where diffusers rounds it, because
those rounded numbers are the ones the checkpoint is sampled with everywhere; what follows is float64.

alphas_cumprod is the share of signal variance; sigma = sqrt(1 / alphas_cumprod - 1) is noise over signal.
"""

from __future__ import annotations

from math import cos, pi

import numpy as np
import numpy.typing as npt

from instantrt.errors import BundleError
from instantrt.samplers.config import Settings

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_KARRAS_RHO = 7.0
_MAX_BETA = 0.999  # of the cosine schedule


def alphas_cumprod(settings: Settings) -> F32:
    """Cumulative product of 1 - beta, float32 [num_train_timesteps], descending."""
    betas = _betas(settings)
    if settings.rescale_betas_zero_snr:
        betas = _rescaled_to_zero_snr(betas)
    return _cumprod(np.float32(1) - betas)


def clamped_alphas_cumprod(settings: Settings) -> F32:
    """As :func:`alphas_cumprod`, with a last entry of 2**-24 if it was rescaled to 0, so that sigmas stay finite."""
    alphas = alphas_cumprod(settings)
    if settings.rescale_betas_zero_snr:
        alphas[-1] = 2.0**-24
    return alphas


def sigmas_of(alphas: F32) -> F32:
    """Sigma of every training timestep, float32, ascending."""
    sigmas: F32 = np.sqrt((np.float32(1) - alphas) / alphas)
    return sigmas


def final_sigma(settings: Settings, alphas: F32) -> float:
    """The sigma behind the last step: 0, or that of training timestep 0."""
    return 0.0 if settings.final_sigmas_type == "zero" else float(sigmas_of(alphas[:1])[0])


def spaced_timesteps(settings: Settings, count: int, train_timesteps: int) -> F64:
    """``count`` descending timesteps below ``train_timesteps``, as float64 (fractional for "linspace").

    Table 2 of "Common Diffusion Noise Schedules and Sample Steps are Flawed" (Lin et al., 2023).
    """
    if settings.timestep_spacing == "linspace":
        return np.linspace(0, train_timesteps - 1, count)[::-1]
    if settings.timestep_spacing == "leading":
        return (np.arange(count, dtype=np.float64) * (train_timesteps // count))[::-1] + settings.steps_offset
    return trailing_timesteps(train_timesteps, train_timesteps / count, count)


def trailing_timesteps(start: int, stride: float, count: int) -> F64:
    """At most ``count`` timesteps, ``stride`` apart, ending near 0.

    The cut to ``count`` matters where rounding lets the range overshoot: for 61 of 1000 it has a 62nd entry, which
    diffusers runs as a 62nd step at timestep -1.
    """
    return np.asarray(np.round(np.arange(start, 0, -stride))[:count] - 1, dtype=np.float64)


def checked_timesteps(timesteps: F64, settings: Settings) -> F64:
    """The same timesteps, once they are known to lie inside the training schedule."""
    if timesteps.min() < 0 or timesteps.max() > settings.num_train_timesteps - 1:
        raise BundleError(
            "the scheduler config leads to timesteps outside the training schedule",
            found=f"{timesteps.min():g}..{timesteps.max():g} with steps_offset={settings.steps_offset}",
            hint=f"timesteps must lie in 0..{settings.num_train_timesteps - 1}; check steps_offset",
        )
    return timesteps


def interpolated_sigmas(timesteps: F64, sigmas: F32) -> F64:
    """Sigma at fractional timesteps, linear between training timesteps."""
    return np.interp(timesteps, np.arange(len(sigmas)), sigmas)


def karras_sigmas(settings: Settings, largest: float, smallest: float, count: int) -> F64:
    """``count`` descending sigmas; equation 5 of "Elucidating the Design Space" (Karras et al., 2022) with rho 7."""
    low = settings.sigma_min if settings.sigma_min is not None else smallest
    high = settings.sigma_max if settings.sigma_max is not None else largest
    ramp = np.linspace(0, 1, count)
    low_root, high_root = low ** (1 / _KARRAS_RHO), high ** (1 / _KARRAS_RHO)
    return np.asarray((high_root + ramp * (low_root - high_root)) ** _KARRAS_RHO, dtype=np.float64)


def timesteps_of_sigmas(sigmas: F64, train_sigmas: F32) -> F64:
    """The fractional timesteps whose sigmas these are, linear in log sigma between training timesteps."""
    return np.interp(np.log(sigmas), np.log(train_sigmas), np.arange(len(train_sigmas)))


def as_float32(values: F64) -> F64:
    """Rounded to float32 and back: where diffusers stores float32, the rounded number is the one that counts."""
    return values.astype(np.float32).astype(np.float64)


def _cumprod(alphas: F32) -> F32:
    return np.cumprod(alphas.astype(np.float64)).astype(np.float32)


def _betas(settings: Settings) -> F32:
    count = settings.num_train_timesteps
    if settings.trained_betas is not None:
        return np.asarray(settings.trained_betas, dtype=np.float32)
    if settings.beta_schedule == "linear":
        return _linspace(settings.beta_start, settings.beta_end, count)
    if settings.beta_schedule == "scaled_linear":
        return _linspace(settings.beta_start**0.5, settings.beta_end**0.5, count) ** 2
    return _cosine_betas(count)


def _linspace(start: float, end: float, count: int) -> F32:
    """Float32 steps counted from the nearer end, as torch.linspace counts them."""
    first, last = np.float32(start), np.float32(end)
    step = (last - first) / np.float32(count - 1)
    index = np.arange(count, dtype=np.float32)
    return np.where(index < count // 2, first + step * index, last - step * index[::-1])


def _cosine_betas(count: int) -> F32:
    """The cosine schedule of "Improved Denoising Diffusion Probabilistic Models" (Nichol and Dhariwal, 2021)."""

    def alpha_bar(t: float) -> float:
        return cos((t + 0.008) / 1.008 * pi / 2) ** 2

    ratios = (alpha_bar((i + 1) / count) / alpha_bar(i / count) for i in range(count))
    return np.array([min(1 - ratio, _MAX_BETA) for ratio in ratios], dtype=np.float32)


def _rescaled_to_zero_snr(betas: F32) -> F32:
    """Algorithm 1 of "Common Diffusion Noise Schedules and Sample Steps are Flawed" (Lin et al., 2023)."""
    roots = np.sqrt(_cumprod(np.float32(1) - betas))
    first, last = roots[0], roots[-1]
    shifted = (roots - last) * (first / (first - last))
    bars = shifted**2
    alphas = np.concatenate([bars[:1], bars[1:] / bars[:-1]])
    return np.float32(1) - alphas
