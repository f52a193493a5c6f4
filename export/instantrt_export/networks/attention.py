"""Attention for export: cross-attentions take keys and values that are computed once, for all of them together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instantrt.errors import CheckpointError
from instantrt_export.dims import cross_attentions

FaceWeights = Sequence[tuple[Tensor, Tensor]]


class KeyValue(NamedTuple):
    """What one cross-attention attends to, [N, tokens, width] each."""

    key: Tensor
    value: Tensor


class FaceStates(NamedTuple):
    """What the UNet's cross-attentions attend to; travels through diffusers' blocks as ``encoder_hidden_states``.

    Attributes:
        text: keys and values of the text tokens, one pair for each cross-attention.
        face: keys and values of the face tokens.
        masks: stride -> [N, tokens, 1], the weight of the face attention's output at each image token.
    """

    text: Sequence[KeyValue]
    face: Sequence[KeyValue]
    masks: Mapping[int, Tensor]


class SelfAttention:
    """Multi-head attention of image tokens to themselves, without masks."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,  # noqa: ARG002 - diffusers names both in every call
        attention_mask: None = None,  # noqa: ARG002
    ) -> Tensor:
        """Image tokens [N, tokens, width] attending to themselves."""
        key, value = attn.to_k(hidden_states), attn.to_v(hidden_states)
        return project_out(attn, attend(attn.to_q(hidden_states), key, value, attn.heads))


class FeatureAttention:
    """The attention of a VAE's mid block: the pixels of feature maps to themselves, with norm and residual."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: None = None,  # noqa: ARG002 - diffusers names all three in every call
        attention_mask: None = None,  # noqa: ARG002
        temb: None = None,  # noqa: ARG002
    ) -> Tensor:
        """Feature maps [N, channels, h, w] to the same."""
        x = attn.group_norm(hidden_states).flatten(2).transpose(1, 2)
        attended = project_out(attn, attend(attn.to_q(x), attn.to_k(x), attn.to_v(x), attn.heads))
        maps: Tensor = attended.transpose(1, 2).unflatten(2, hidden_states.shape[2:])
        return hidden_states + maps


@dataclass(frozen=True)
class CrossAttention:
    """Multi-head attention to keys and values that are given, not computed here.

    Args:
        index: which pair of them is this attention's.
    """

    index: int

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Sequence[KeyValue],
        attention_mask: None = None,  # noqa: ARG002 - diffusers names it in every call
    ) -> Tensor:
        """Image tokens [N, tokens, width] attending to one pair of keys and values."""
        key, value = encoder_hidden_states[self.index]
        return project_out(attn, attend(attn.to_q(hidden_states), key, value, attn.heads))


@dataclass(frozen=True)
class FaceAttention:
    """InstantID's face attention: attention(q, text) + mask * attention(q, face), with keys and values of their own.

    The adapter's strength is part of the mask. The attention map of the official 2.0 processor is not computed.

    Args:
        index: which pairs of keys and values are this attention's.
        stride: pictures are ``stride`` times larger than the feature maps here; picks the mask.
    """

    index: int
    stride: int

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: FaceStates,
        attention_mask: None = None,  # noqa: ARG002 - diffusers names it in every call
    ) -> Tensor:
        """Image tokens [N, tokens, width] attending to text and face."""
        states, query = encoder_hidden_states, attn.to_q(hidden_states)
        from_text = attend(query, *states.text[self.index], attn.heads)
        from_face = attend(query, *states.face[self.index], attn.heads)
        return project_out(attn, from_text + states.masks[self.stride] * from_face)


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """Multi-head scaled dot-product attention of [N, tokens, width] as one ONNX operator.

    TensorRT compiles ``Attention`` to one fused kernel or refuses to build, and ONNX Runtime's kernel needs no
    transposed copies of the heads.
    """
    attended: Tensor = torch.onnx.ops.attention(query, key, value, q_num_heads=heads, kv_num_heads=heads)[0]
    return attended


def project_out(attn: Any, x: Tensor) -> Tensor:
    """[N, tokens, width] through the attention's output projection."""
    projected: Tensor = attn.to_out[0](x)
    return projected


class KeyValueProjection(nn.Module):
    """The keys and values of many cross-attentions side by side, as one matrix product.

    Args:
        weights: of their projections, [width, token_width] each: keys, values, keys of the next, ...
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat(list(weights)), requires_grad=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [G, tokens, token_width] to [G, tokens, sum of widths]."""
        return F.linear(tokens, self.weight)


class CrossAttentionNetwork(nn.Module):
    """The contract ``cross_attention``: keys and values that stay the same through the whole loop.

    Args:
        text_unet: of the UNet's cross-attentions to text.
        face_unet: of its face attentions.
        face_identitynet: of IdentityNet's cross-attentions.
    """

    def __init__(
        self, text_unet: KeyValueProjection, face_unet: KeyValueProjection, face_identitynet: KeyValueProjection
    ) -> None:
        super().__init__()
        self.text_unet, self.face_unet, self.face_identitynet = text_unet, face_unet, face_identitynet

    def forward(self, text_tokens: Tensor, face_tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Text tokens [G, 77, width] and face tokens [G, 16, width] to three tensors of keys and values."""
        return self.text_unet(text_tokens), self.face_unet(face_tokens), self.face_identitynet(face_tokens)


def key_value_projection(network: Any) -> KeyValueProjection:
    """What ``network``'s own cross-attentions make of tokens."""
    return KeyValueProjection([layer.weight for attn in cross_attentions(network) for layer in (attn.to_k, attn.to_v)])


def face_key_value_projection(weights: FaceWeights) -> KeyValueProjection:
    """What the face attentions make of face tokens; ``weights`` in the order of ``unet.attn_processors``."""
    return KeyValueProjection([weight for pair in weights for weight in pair])


def split_keys_values(kv: Tensor, widths: Sequence[int]) -> list[KeyValue]:
    """Takes apart what a :class:`KeyValueProjection` gave.

    Args:
        kv: [G, B, tokens, width].
        widths: of the cross-attentions, in order.
    """
    parts = iter(kv.flatten(0, 1).split([width for width in widths for _ in KeyValue._fields], dim=-1))
    return [KeyValue(key, value) for key, value in zip(parts, parts, strict=True)]


def use_cross_attention(network: Any, processors: Sequence[Any]) -> tuple[int, ...]:
    """Puts ``processors`` into the cross-attentions of a UNet or ControlNet, :class:`SelfAttention` into the others.

    The weights of the cross-attentions' own keys and values are dropped.

    Returns:
        the widths of the cross-attentions.
    """
    for name in network.attn_processors:
        attn = network.get_submodule(name.removesuffix(".processor"))
        _require_ordinary(name, attn)
        attn.set_processor(SelfAttention())
    attentions = cross_attentions(network)
    for attn, processor in zip(attentions, processors, strict=True):
        attn.set_processor(processor)
        attn.to_k = attn.to_v = None
    return tuple(attn.inner_dim for attn in attentions)


def _require_ordinary(name: str, attn: Any) -> None:
    """Refuses attentions with extras that the processors here leave out; no SDXL checkpoint has them."""
    extras = ("group_norm", "spatial_norm", "norm_q", "norm_k", "norm_cross", "residual_connection")
    present = [extra for extra in extras if getattr(attn, extra, None)]
    present += [f"{layer}.bias" for layer in ("to_k", "to_v") if getattr(attn, layer).bias is not None]
    if present or attn.rescale_output_factor != 1:
        found = ", ".join(present) or f"an output divided by {attn.rescale_output_factor}"
        hint = "export a checkpoint of SDXL's architecture"
        raise CheckpointError(f"the attention {name} is not one of SDXL's", found=found, hint=hint)
