"""Random inputs of the loop for any checkpoint's sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt.conditioning.conditions import condition_masks
from instantrt.contracts import ModelDims
from instantrt.denoise import SlotInputs
from instantrt.samplers import SchedulerConfig, step_table

GUIDANCE = 5.0
IDENTITY_STRENGTH = ADAPTER_STRENGTH = 0.8


def random_slot(dims: ModelDims, scheduler: Mapping[str, Any], px: int, steps: int, seed: int) -> SlotInputs:
    """A guided slot of Euler steps with standard normal inputs, exact in fp16, of the sizes that a request gives.

    Args:
        dims: of the checkpoint.
        scheduler: its scheduler config.
        px: side of the square picture.
        steps: rows of the table.
        seed: of all numbers.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> npt.NDArray[np.float32]:
        return rng.standard_normal(shape, dtype=np.float32).astype(np.float16).astype(np.float32)

    table = step_table("euler", steps, GUIDANCE, SchedulerConfig.from_json(scheduler))
    side = px // dims.vae_stride
    return SlotInputs(
        table=table,
        latents=normal(dims.latent_channels, side, side) * np.float32(table.init_noise_sigma),
        noise=normal(0, dims.latent_channels, side, side),
        time_embeddings_unet=normal(steps, 2, dims.unet_time_width),
        time_embeddings_identitynet=normal(steps, 2, dims.identitynet_time_width),
        text_kv_unet=normal(2, dims.text_tokens, dims.unet_kv_width),
        face_kv_unet=normal(2, dims.face_tokens, dims.unet_kv_width),
        face_kv_identitynet=normal(2, dims.face_tokens, dims.identitynet_kv_width),
        control_features=normal(dims.control_channels, side, side),
        masks=condition_masks(dims, np.ones((px, px), np.float32), IDENTITY_STRENGTH, ADAPTER_STRENGTH),
    )
