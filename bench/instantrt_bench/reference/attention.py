"""Face attention as a diffusers attention processor: the reference's own, which shares no code with the export."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import nn

FaceWeights = tuple[torch.Tensor, torch.Tensor]
"""``to_k_ip`` and ``to_v_ip`` of one cross-attention, each ``[hidden width, token width]``."""


class FaceAttention(nn.Module):
    """Cross-attention to the text tokens plus ``strength`` times cross-attention to the face tokens behind them.

    InstantID's processor (its pipeline's ``IPAttnProcessor``), with the region mask of its full pipeline. Requests
    set ``strength`` and ``mask`` through :func:`set_face_control`.

    Args:
        weights: the layer's face key and value projections.
        face_tokens: how many of the last encoder states are face tokens.
    """

    def __init__(self, weights: FaceWeights, face_tokens: int) -> None:
        super().__init__()
        self.to_k_ip, self.to_v_ip = (_linear(w) for w in weights)
        self.face_tokens = face_tokens
        self.strength = 1.0
        self.mask: torch.Tensor | None = None  # [H, W] of the picture

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,  # [N, L, C]
        encoder_hidden_states: torch.Tensor,  # [N, text + face tokens, token width]
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The layer's output ``[N, L, C]``."""
        if attention_mask is not None or temb is not None:
            raise ValueError("an SDXL cross-attention takes neither an attention mask nor a time embedding")
        text, face = encoder_hidden_states.tensor_split([-self.face_tokens], dim=1)
        query = _split_heads(attn.to_q(hidden_states), attn.heads)
        text_out = _attention(query, attn.to_k(text), attn.to_v(text))
        face_out = _attention(query, self.to_k_ip(face), self.to_v_ip(face))
        if self.mask is not None:
            face_out = face_out * _mask_for(self.mask, hidden_states.shape[1]).to(face_out)
        out = text_out + self.strength * face_out
        for layer in attn.to_out:  # projection, then dropout
            out = layer(out)
        return out


def install_face_attention(
    unet: UNet2DConditionModel, weights: Sequence[FaceWeights], face_tokens: int
) -> list[FaceAttention]:
    """Give every cross-attention of ``unet`` a :class:`FaceAttention`, in the order of its attention processors."""
    processors = dict(unet.attn_processors)
    names = [name for name in processors if name.endswith("attn2.processor")]
    if len(names) != len(weights):
        raise ValueError(f"the UNet has {len(names)} cross-attentions, the adapter weights for {len(weights)}")
    layers = [FaceAttention(w, face_tokens) for w in weights]
    unet.set_attn_processor(processors | dict(zip(names, layers, strict=True)))
    return layers


def set_face_control(layers: Sequence[FaceAttention], strength: float, mask: torch.Tensor | None) -> None:
    """Scale the face attention of every layer by ``strength`` and by ``mask`` ``[H, W]``, if there is one."""
    for layer in layers:
        layer.strength, layer.mask = strength, mask


def _linear(weight: torch.Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device, dtype=weight.dtype)
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    return linear


def _split_heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    rows, length, _ = x.shape
    return x.view(rows, length, heads, -1).transpose(1, 2)  # [N, L, C] -> [N, heads, L, C / heads]


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    heads = query.shape[1]
    out = F.scaled_dot_product_attention(query, _split_heads(key, heads), _split_heads(value, heads))
    return out.transpose(1, 2).flatten(-2)


def _mask_for(mask: torch.Tensor, positions: int) -> torch.Tensor:
    """The mask ``[1, L, 1]`` at the size whose area is ``positions``, by nearest neighbour."""
    height, width = mask.shape
    scale = round((height * width / positions) ** 0.5)
    small = F.interpolate(mask[None, None], size=(height // scale, width // scale), mode="nearest")
    return small.reshape(1, positions, 1)
