"""The two loops that are held against each other at full size, made from the same weights and the same conditions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from instantrt.conditioning.conditions import condition_masks
from instantrt.contracts import Precision, network_contracts
from instantrt.denoise import SlotInputs
from instantrt.device import Array
from instantrt.network import Network
from instantrt.samplers import SchedulerConfig, StepTable, step_table
from instantrt_bench.gpu_check.conditions import ADAPTER_STRENGTH, GUIDANCE, IDENTITY_STRENGTH
from instantrt_bench.gpu_check.torch_target import TorchTarget
from instantrt_bench.reference.attention import install_face_attention, set_face_control
from instantrt_bench.reference.schedulers import scheduler_for
from instantrt_export.checkpoint import Checkpoint

SAMPLER = "euler"


@dataclass(frozen=True)
class Conditions:
    """What one guided picture is made from, both rows; floats are exact in fp16, so that all precisions agree."""

    text_tokens: Array  # f32 [2, 77, token width]
    pooled: Array  # f32 [2, pooled width]
    face_tokens: Array  # f32 [2, face tokens, token width]
    control_image: Array  # u8 [H, W, 3]
    latents: Array  # f32 [4, H/8, W/8], noise times the table's init_noise_sigma
    table: StepTable

    @classmethod
    def random(cls, checkpoint: Checkpoint, px: int, steps: int, seed: int) -> Conditions:
        """Seeded conditions for a picture of ``px`` x ``px`` in so many steps."""
        rng, dims = np.random.default_rng(seed), checkpoint.dims

        def normal(*shape: int) -> Array:
            return rng.standard_normal(shape).astype(np.float16).astype(np.float32)

        table = step_table(SAMPLER, steps, GUIDANCE, SchedulerConfig.from_json(checkpoint.scheduler_config))
        noise = normal(dims.latent_channels, px // dims.vae_stride, px // dims.vae_stride)
        return cls(
            text_tokens=normal(2, dims.text_tokens, dims.token_width),
            pooled=normal(2, dims.pooled_width),
            face_tokens=normal(2, dims.face_tokens, dims.token_width),
            control_image=rng.integers(0, 256, (px, px, 3), np.uint8),
            latents=noise * np.float32(table.init_noise_sigma),
            table=table,
        )

    @property
    def time_ids(self) -> Array:
        """f32 [2, 6]: original height and width, crop corner, target height and width."""
        height, width, _ = self.control_image.shape
        return np.asarray([[height, width, 0, 0, height, width]] * 2, np.float32)


class Conditioning:
    """The runtime's conditioning networks, which turn conditions into the inputs of a slot of the loop."""

    def __init__(self, target: TorchTarget, checkpoint: Checkpoint, precision: Precision) -> None:
        self._dims = checkpoint.dims
        contracts = network_contracts(checkpoint.dims)
        with ExitStack() as owned:
            self._cross_attention, self._time_embedding, self._control_embedding = (
                owned.enter_context(closing(Network(target, contracts[name], precision)))
                for name in ("cross_attention", "time_embedding", "control_embedding")
            )
            self._owned = owned.pop_all()

    def slot(self, conditions: Conditions) -> SlotInputs:
        """The inputs of one slot; valid until the next call."""
        px, _, _ = conditions.control_image.shape
        kv = self._cross_attention.run({"text_tokens": conditions.text_tokens, "face_tokens": conditions.face_tokens})
        times = self._time_embedding.run(
            {"timesteps": conditions.table.timesteps, "pooled": conditions.pooled, "time_ids": conditions.time_ids}
        )
        features = self._control_embedding.run({"image": conditions.control_image[None]})["features"]
        return SlotInputs(
            table=conditions.table,
            latents=conditions.latents,
            noise=np.zeros((0, *conditions.latents.shape), np.float32),  # Euler draws none
            time_embeddings_unet=times["unet"],
            time_embeddings_identitynet=times["identitynet"],
            text_kv_unet=kv["text_kv_unet"],
            face_kv_unet=kv["face_kv_unet"],
            face_kv_identitynet=kv["face_kv_identitynet"],
            control_features=features.at(0),
            masks=condition_masks(self._dims, np.ones((px, px), np.float32), IDENTITY_STRENGTH, ADAPTER_STRENGTH),
        )

    def close(self) -> None:
        """Release the engines."""
        self._owned.close()


class ReferenceLoop:
    """InstantID's loop as a user of diffusers runs it: diffusers' modules and scheduler, guidance in torch, no graph.

    The weights are the fp16 ones in every ``dtype``, so that only the arithmetic differs.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._unet: Any = checkpoint.unet(torch.float16).to(dtype)
        self._identitynet: Any = checkpoint.identitynet(torch.float16).to(dtype)
        face_weights = [(k.to(dtype), v.to(dtype)) for k, v in checkpoint.face_attention_weights(torch.float16)]
        layers = install_face_attention(self._unet, face_weights, checkpoint.dims.face_tokens)
        for module in (self._unet, self._identitynet):
            module.to(device)
        set_face_control(layers, ADAPTER_STRENGTH, mask=None)
        self._config = checkpoint.scheduler_config

    def prepare(self, conditions: Conditions) -> None:
        """Set the conditions and go back to the first step."""
        given: Callable[[Array], Tensor] = partial(torch.as_tensor, device=self._device, dtype=self._dtype)
        self._face_tokens = given(conditions.face_tokens)
        self._tokens = torch.cat([given(conditions.text_tokens), self._face_tokens], dim=1)
        self._added = {"text_embeds": given(conditions.pooled), "time_ids": given(conditions.time_ids)}
        picture = given(conditions.control_image).permute(2, 0, 1) / 255
        self._control_image = picture.expand(2, -1, -1, -1).contiguous()
        self.latents = given(conditions.latents)[None]
        self._steps = len(conditions.table.rows)
        self._restart()

    @torch.inference_mode()
    def step(self) -> None:
        """One network call: identitynet, unet, guidance, scheduler. Starts over after the last."""
        if self._step == self._steps:
            self._restart()
        timestep = self._scheduler.timesteps[self._step]
        sample = self._scheduler.scale_model_input(torch.cat([self.latents] * 2), timestep)
        negative, positive = self._predict(sample, timestep).chunk(2)
        guided = negative + GUIDANCE * (positive - negative)
        self.latents = self._scheduler.step(guided, timestep, self.latents, return_dict=False)[0]
        self._step += 1

    def _restart(self) -> None:
        self._scheduler = scheduler_for(SAMPLER, self._steps, self._config, self._device)
        self._step = 0

    def _predict(self, sample: Tensor, timestep: Tensor) -> Tensor:
        down, mid = self._identitynet(
            sample,
            timestep,
            encoder_hidden_states=self._face_tokens,
            controlnet_cond=self._control_image,
            conditioning_scale=IDENTITY_STRENGTH,
            added_cond_kwargs=self._added,
            return_dict=False,
        )
        prediction: Tensor = self._unet(
            sample,
            timestep,
            encoder_hidden_states=self._tokens,
            added_cond_kwargs=self._added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
            return_dict=False,
        )[0]
        return prediction
