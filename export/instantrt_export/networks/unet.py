"""One denoising step of the UNet with face attention, guidance and sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from instantrt.contracts import ModelDims
from instantrt_export.dims import face_attention_sites
from instantrt_export.networks.attention import FaceAttention, FaceStates, split_keys_values, use_cross_attention
from instantrt_export.networks.embeddings import use_given_time_embeddings
from instantrt_export.networks.feed_forward import use_gated_linear
from instantrt_export.networks.step import (
    guided_prediction,
    repeat_for_guidance,
    rows_at_step,
    sampler_step,
    step_coefficients,
    time_embeddings_at_step,
)


class UNetNetwork(nn.Module):
    """The contract ``unet`` around a diffusers ``UNet2DConditionModel``, which it changes.

    Keys and values of the cross-attentions and the resnets' time embeddings are inputs instead of being computed.

    Args:
        unet: the UNet in the network's dtype.
        dims: the checkpoint's sizes.
    """

    def __init__(self, unet: Any, dims: ModelDims) -> None:
        super().__init__()
        sites = face_attention_sites(unet, dims.vae_stride)
        processors = [FaceAttention(i, site.stride) for i, site in enumerate(sites)]
        self.attention_widths = use_cross_attention(unet, processors)
        self.time_widths = use_given_time_embeddings(unet)
        use_gated_linear(unet)
        self.unet = unet
        self.mask_strides = dims.adapter_strides

    def forward(
        self,
        latents: Tensor,
        step: Tensor,
        step_table: Tensor,
        time_embeddings: Tensor,
        history: Tensor,
        noise: Tensor,
        text_kv: Tensor,
        face_kv: Tensor,
        *masks_and_residuals: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Adapter masks in the order of ``dims.adapter_strides``, then residuals; gives latents, history and step."""
        guidance_batch = face_kv.shape[0]
        masks = masks_and_residuals[: len(self.mask_strides)]
        residuals = [r.flatten(0, 1) for r in masks_and_residuals[len(self.mask_strides) :]]
        row = step_coefficients(step_table, step)
        token_masks = {
            stride: repeat_for_guidance(mask.flatten(1).unsqueeze(-1), guidance_batch)
            for stride, mask in zip(self.mask_strides, masks, strict=True)
        }
        text, face = (split_keys_values(kv, self.attention_widths) for kv in (text_kv, face_kv))
        states = FaceStates(text, face, token_masks)
        embeddings = time_embeddings_at_step(time_embeddings, step, self.time_widths)
        sample = (latents * row["input_scale"]).to(noise.dtype)
        predicted = self._predict(sample, embeddings, states, residuals, guidance_batch)
        prediction = guided_prediction(predicted.unflatten(0, (guidance_batch, -1)), row["guidance"])
        draw = rows_at_step(noise, step).float()
        return *sampler_step(latents, history, draw, prediction, row), step + 1

    def _predict(
        self,
        sample: Tensor,
        embeddings: Sequence[Tensor],
        states: FaceStates,
        residuals: list[Tensor],
        guidance_batch: int,
    ) -> Tensor:
        """Predictions [N, 4, h, w] for sample [B, 4, h, w]; the guidance batch forks after ``conv_in``."""
        unet = self.unet
        x = repeat_for_guidance(unet.conv_in(sample), guidance_batch)
        x, skips = run_down_blocks(unet.down_blocks, x, embeddings, states)
        skips = [skip + residual for skip, residual in zip(skips, residuals[:-1], strict=True)]
        x = unet.mid_block(x, embeddings, encoder_hidden_states=states) + residuals[-1]
        for block in unet.up_blocks:
            count = len(block.resnets)
            skips, taken = skips[:-count], tuple(skips[-count:])
            x = block(x, taken, embeddings, **_states_of(block, states))
        prediction: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))
        return prediction


def run_down_blocks(blocks: Any, x: Tensor, embeddings: Sequence[Tensor], states: Any) -> tuple[Tensor, list[Tensor]]:
    """The encoder half of a UNet or ControlNet: its last feature map, and the skip connections from ``x`` on."""
    skips = [x]
    for block in blocks:
        x, outputs = block(x, embeddings, **_states_of(block, states))
        skips.extend(outputs)
    return x, skips


def _states_of(block: Any, states: Any) -> dict[str, Any]:
    return {"encoder_hidden_states": states} if getattr(block, "has_cross_attention", False) else {}
