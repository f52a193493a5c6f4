"""One call of IdentityNet: face tokens and control features to residuals, scaled and masked."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from instantrt.contracts import ModelDims
from instantrt_export.networks.attention import use_plain_attention
from instantrt_export.networks.step import repeat_halves, step_coefficients, time_embedding_rows
from instantrt_export.networks.unet import run_down_blocks


class IdentityNetNetwork(nn.Module):
    """The contract ``identitynet`` around a diffusers ``ControlNetModel``, whose attention processors it replaces.

    Args:
        identitynet: the ControlNet in the network's dtype.
        dims: the checkpoint's sizes.
    """

    def __init__(self, identitynet: Any, dims: ModelDims) -> None:
        super().__init__()
        use_plain_attention(identitynet)
        self.identitynet = identitynet
        self.mask_scales = dims.control_scales
        self.residual_scales = tuple(r.scale for r in (*dims.residuals, dims.mid_residual))

    def forward(
        self,
        latents: Tensor,
        step: Tensor,
        step_table: Tensor,
        time_embeddings: Tensor,
        face_tokens: Tensor,
        control_features: Tensor,
        *control_masks: Tensor,
    ) -> tuple[Tensor, ...]:
        """Control masks in the order of ``dims.control_scales``; gives the residuals [G, B, channels, ...]."""
        net, halves = self.identitynet, face_tokens.shape[0]
        row = step_coefficients(step_table, step)
        strength = row["control_scale"].to(control_features.dtype)
        weights = {s: mask * strength for s, mask in zip(self.mask_scales, control_masks, strict=True)}
        embedding, states = time_embedding_rows(time_embeddings, step), face_tokens.flatten(0, 1)
        sample = (latents * row["input_scale"]).to(control_features.dtype)
        x = repeat_halves(net.conv_in(sample) + control_features, halves)
        x, skips = run_down_blocks(net.down_blocks, x, embedding, states)
        x = net.mid_block(x, embedding, encoder_hidden_states=states)
        residuals = [conv(skip) for conv, skip in zip(net.controlnet_down_blocks, skips, strict=True)]
        residuals.append(net.controlnet_mid_block(x))
        return tuple(
            residual.unflatten(0, (halves, -1)) * weights[scale]
            for residual, scale in zip(residuals, self.residual_scales, strict=True)
        )
