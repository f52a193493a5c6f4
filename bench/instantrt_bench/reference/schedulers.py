"""Which diffusers scheduler stands behind each sampler name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
)

from instantrt.errors import RequestError

SCHEDULERS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "euler": (EulerDiscreteScheduler, {}),
    "euler_ancestral": (EulerAncestralDiscreteScheduler, {}),
    "ddim": (DDIMScheduler, {}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "dpmpp_2m_sde_karras": (
        DPMSolverMultistepScheduler,
        {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"},
    ),
    "heun": (HeunDiscreteScheduler, {}),
    "lcm": (LCMScheduler, {}),
    "euler_trailing": (EulerDiscreteScheduler, {"timestep_spacing": "trailing"}),
}
"""Sampler name -> diffusers class and what replaces values of the checkpoint's ``scheduler_config.json``."""


def scheduler_for(sampler: str, steps: int, config: Mapping[str, Any], device: torch.device | str | None = None) -> Any:
    """A fresh diffusers scheduler for ``sampler``, its timesteps set for ``steps`` and put on ``device``.

    LCM picks its timesteps out of 50 of the distillation's; above 50 steps out of as many as are asked for.

    Raises:
        RequestError: ``sampler`` is not a key of :data:`SCHEDULERS`.
    """
    if sampler not in SCHEDULERS:
        raise RequestError("Unknown sampler", found=repr(sampler), hint="Use one of " + ", ".join(SCHEDULERS))
    scheduler_class, overrides = SCHEDULERS[sampler]
    known = inspect.signature(scheduler_class).parameters  # diffusers warns of a config's other keys and drops them
    scheduler = scheduler_class.from_config({key: config[key] for key in config if key in known}, **overrides)
    if sampler == "lcm":
        scheduler.set_timesteps(steps, original_inference_steps=max(50, steps), device=device)
    else:
        scheduler.set_timesteps(steps, device=device)
    return scheduler
