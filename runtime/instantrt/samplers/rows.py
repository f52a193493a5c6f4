"""Rows of a step table before guidance and window are known, and the folding of prediction types into them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Row(NamedTuple):
    """One network call as a linear map: x' = a x + b eps + c h + s z and h' = d x + e eps + f h.

    x are the latents, eps the guided prediction of the network fed with ``input_scale`` * x, h the history tensor,
    z fresh noise.
    """

    input_scale: float
    a: float
    b: float
    c: float = 0.0
    s: float = 0.0
    d: float = 0.0
    e: float = 0.0
    f: float = 0.0


class Rows(NamedTuple):
    """All network calls of one sampling run; ``timesteps`` float64 [len(rows)] is what the networks are given.

    ``noise_draws`` counts the draws of the picture's shape that diffusers takes after the initial noise.
    """

    rows: list[Row]
    timesteps: npt.NDArray[np.float64]
    init_noise_sigma: float = 1.0
    noise_draws: int = 0


class Denoised(NamedTuple):
    """The denoised latents x0 = of_x * x + of_eps * eps."""

    of_x: float
    of_eps: float


def denoised_from_sigma(prediction_type: str, sigma: float) -> Denoised:
    """x0 where x = x0 + sigma * noise and the network is fed with x / sqrt(sigma^2 + 1)."""
    if prediction_type == "epsilon":
        return Denoised(1.0, -sigma)
    square = sigma * sigma + 1.0
    return Denoised(1.0 / square, -sigma / square**0.5)


def denoised_from_alpha(prediction_type: str, alpha: float, sigma: float) -> Denoised:
    """x0 where x = alpha * x0 + sigma * noise with alpha^2 + sigma^2 = 1, and the network is fed with x."""
    if prediction_type == "epsilon":
        return Denoised(1.0 / alpha, -sigma / alpha)
    return Denoised(alpha, -sigma)


def input_scale_of(sigma: float) -> float:
    """What brings x = x0 + sigma * noise to unit variance."""
    return float((sigma * sigma + 1.0) ** -0.5)
