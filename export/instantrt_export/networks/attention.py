"""Attention processors for export: plain attention, and cross-attention to text and face tokens with masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from instantrt.errors import CheckpointError
from instantrt_export.dims import face_attention_sites

FaceWeights = Sequence[tuple[Tensor, Tensor]]


class FaceStates(NamedTuple):
    """What a cross-attention of the UNet attends to; travels through diffusers' blocks as ``encoder_hidden_states``.

    Attributes:
        text_tokens: [N, 77, token_width].
        face_tokens: [N, 16, token_width].
        masks: picture scale -> [N, 1, tokens, 1], the weight of the face attention's output at each image token.
    """

    text_tokens: Tensor
    face_tokens: Tensor
    masks: Mapping[int, Tensor]


class PlainAttention:
    """Multi-head attention without masks, as diffusers' ``AttnProcessor2_0`` computes it for 3-D states."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,  # noqa: ARG002 - diffusers names it in every call
    ) -> Tensor:
        """Image tokens [N, tokens, width] attending to themselves or to ``encoder_hidden_states``."""
        states = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = split_heads(attn.to_q(hidden_states), attn.heads)
        key, value = split_heads(attn.to_k(states), attn.heads), split_heads(attn.to_v(states), attn.heads)
        return project_out(attn, F.scaled_dot_product_attention(query, key, value))


class FaceAttention(nn.Module):
    """InstantID's face attention: attention(q, text) + mask * attention(q, face), with its own keys and values.

    The adapter's strength is part of the mask. The attention map of the official 2.0 processor is not computed.

    Args:
        to_k_ip: weight [inner width, token_width] of the face tokens' keys.
        to_v_ip: weight of the same shape for their values.
        scale: pictures are ``scale`` times larger than the feature maps here; picks the mask.
    """

    def __init__(self, to_k_ip: Tensor, to_v_ip: Tensor, scale: int) -> None:
        super().__init__()
        self.to_k_ip, self.to_v_ip = _linear_from_weight(to_k_ip), _linear_from_weight(to_v_ip)
        self.scale = scale

    def forward(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: FaceStates,
        attention_mask: None = None,  # noqa: ARG002 - diffusers names it in every call
    ) -> Tensor:
        """Image tokens [N, tokens, width] attending to text and face."""
        text, face, masks = encoder_hidden_states
        query = split_heads(attn.to_q(hidden_states), attn.heads)
        text_key, text_value = split_heads(attn.to_k(text), attn.heads), split_heads(attn.to_v(text), attn.heads)
        face_key, face_value = split_heads(self.to_k_ip(face), attn.heads), split_heads(self.to_v_ip(face), attn.heads)
        from_text = F.scaled_dot_product_attention(query, text_key, text_value)
        from_face = F.scaled_dot_product_attention(query, face_key, face_value)
        return project_out(attn, from_text + masks[self.scale] * from_face)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[N, tokens, width] to [N, heads, tokens, width / heads]."""
    heads_last: Tensor = x.unflatten(-1, (heads, -1))
    return heads_last.transpose(1, 2)


def project_out(attn: Any, x: Tensor) -> Tensor:
    """[N, heads, tokens, head width] through the attention's output projection: [N, tokens, width]."""
    projected: Tensor = attn.to_out[0](x.transpose(1, 2).flatten(2))
    return projected


def use_plain_attention(network: Any) -> None:
    """Puts :class:`PlainAttention` into every attention of a UNet or ControlNet."""
    for name in network.attn_processors:
        attn = network.get_submodule(name.removesuffix(".processor"))
        _require_ordinary(name, attn)
        attn.set_processor(PlainAttention())


def use_face_attention(unet: Any, weights: FaceWeights, vae_scale: int) -> None:
    """Puts :class:`PlainAttention` into self-attentions and :class:`FaceAttention` into cross-attentions of a UNet.

    Args:
        unet: a diffusers ``UNet2DConditionModel``.
        weights: (to_k_ip, to_v_ip) of each cross-attention in the order of ``unet.attn_processors``.
        vae_scale: pictures are so many times larger than latents.
    """
    use_plain_attention(unet)
    for site, (to_k_ip, to_v_ip) in zip(face_attention_sites(unet, vae_scale), weights, strict=True):
        attn = unet.get_submodule(site.processor.removesuffix(".processor"))
        attn.set_processor(FaceAttention(to_k_ip, to_v_ip, site.scale))


def _linear_from_weight(weight: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(weight, requires_grad=False)
    return linear


def _require_ordinary(name: str, attn: Any) -> None:
    """Refuses attentions with extras that :class:`PlainAttention` leaves out; no SDXL checkpoint has them."""
    extras = ("group_norm", "spatial_norm", "norm_q", "norm_k", "norm_cross", "residual_connection")
    present = [extra for extra in extras if getattr(attn, extra, None)]
    if present or attn.rescale_output_factor != 1:
        found = ", ".join(present) or f"an output divided by {attn.rescale_output_factor}"
        raise CheckpointError(f"the attention {name} is not one of SDXL's", found=found)
