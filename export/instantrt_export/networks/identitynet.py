"""One call of IdentityNet: face tokens and control features to residuals, scaled and masked."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from instantrt.contracts import ModelDims
from instantrt_export.dims import cross_attentions
from instantrt_export.networks.attention import CrossAttention, split_keys_values, use_cross_attention
from instantrt_export.networks.embeddings import use_given_time_embeddings
from instantrt_export.networks.feed_forward import use_gated_linear
from instantrt_export.networks.step import repeat_for_guidance, step_coefficients, time_embeddings_at_step
from instantrt_export.networks.unet import run_down_blocks


class IdentityNetNetwork(nn.Module):
    """The contract ``identitynet`` around a diffusers ``ControlNetModel``, which it changes.

    Keys and values of the cross-attentions and the resnets' time embeddings are inputs instead of being computed.

    Args:
        identitynet: the ControlNet in the network's dtype.
        dims: the checkpoint's sizes.
    """

    def __init__(self, identitynet: Any, dims: ModelDims) -> None:
        super().__init__()
        processors = [CrossAttention(i) for i in range(len(cross_attentions(identitynet)))]
        self.attention_widths = use_cross_attention(identitynet, processors)
        self.time_widths = use_given_time_embeddings(identitynet)
        use_gated_linear(identitynet)
        self.identitynet = identitynet
        self.mask_strides = dims.control_strides
        self.residual_strides = tuple(r.stride for r in (*dims.residuals, dims.mid_residual))

    def forward(
        self,
        latents: Tensor,
        step: Tensor,
        step_table: Tensor,
        time_embeddings: Tensor,
        face_kv: Tensor,
        control_features: Tensor,
        *control_masks: Tensor,
    ) -> tuple[Tensor, ...]:
        """Control masks in the order of ``dims.control_strides``; gives the residuals [G, B, channels, ...]."""
        net, guidance_batch = self.identitynet, face_kv.shape[0]
        row = step_coefficients(step_table, step)
        strength = row["control_scale"].to(control_features.dtype)
        weights = {s: mask * strength for s, mask in zip(self.mask_strides, control_masks, strict=True)}
        embeddings = time_embeddings_at_step(time_embeddings, step, self.time_widths)
        states = split_keys_values(face_kv, self.attention_widths)
        sample = (latents * row["input_scale"]).to(control_features.dtype)
        x = repeat_for_guidance(net.conv_in(sample) + control_features, guidance_batch)
        x, skips = run_down_blocks(net.down_blocks, x, embeddings, states)
        x = net.mid_block(x, embeddings, encoder_hidden_states=states)
        residuals = [conv(skip) for conv, skip in zip(net.controlnet_down_blocks, skips, strict=True)]
        residuals.append(net.controlnet_mid_block(x))
        return tuple(
            residual.unflatten(0, (guidance_batch, -1)) * weights[stride]
            for residual, stride in zip(residuals, self.residual_strides, strict=True)
        )
