"""The torch modules of a checkpoint's networks, by name. Each is loaded from disk anew: keep one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from instantrt_export.checkpoint import Checkpoint
from instantrt_export.networks.attention import (
    CrossAttentionNetwork,
    face_key_value_projection,
    key_value_projection,
)
from instantrt_export.networks.embeddings import ControlEmbeddingNetwork, TimeEmbedding, TimeEmbeddingNetwork
from instantrt_export.networks.identitynet import IdentityNetNetwork
from instantrt_export.networks.projection import ImageProjectionNetwork
from instantrt_export.networks.text import TextEncoderNetwork
from instantrt_export.networks.unet import UNetNetwork
from instantrt_export.networks.vae import VAEDecoderNetwork
from instantrt_export.networks.vae_range import scale_residual_stream


def text_encoder(checkpoint: Checkpoint, dtype: torch.dtype) -> nn.Module:
    """The contract ``text_encoder``."""
    return TextEncoderNetwork(checkpoint.text_encoder(dtype), pooled=False)


def text_encoder_2(checkpoint: Checkpoint, dtype: torch.dtype) -> nn.Module:
    """The contract ``text_encoder_2``."""
    return TextEncoderNetwork(checkpoint.text_encoder_2(dtype), pooled=True)


def image_projection(checkpoint: Checkpoint, dtype: torch.dtype) -> nn.Module:
    """The contract ``image_projection``."""
    return ImageProjectionNetwork(checkpoint.resampler(dtype))


def control_embedding(checkpoint: Checkpoint, dtype: torch.dtype) -> nn.Module:
    """The contract ``control_embedding``."""
    return ControlEmbeddingNetwork(checkpoint.identitynet(dtype))


def time_embedding(checkpoint: Checkpoint, dtype: torch.dtype) -> nn.Module:
    """The contract ``time_embedding``."""
    return TimeEmbeddingNetwork(TimeEmbedding(checkpoint.unet(dtype)), TimeEmbedding(checkpoint.identitynet(dtype)))


def cross_attention(checkpoint: Checkpoint, dtype: torch.dtype) -> nn.Module:
    """The contract ``cross_attention``."""
    return CrossAttentionNetwork(
        key_value_projection(checkpoint.unet(dtype)),
        face_key_value_projection(checkpoint.face_attention_weights(dtype)),
        key_value_projection(checkpoint.identitynet(dtype)),
    )


def identitynet(checkpoint: Checkpoint, dtype: torch.dtype) -> nn.Module:
    """The contract ``identitynet``."""
    return IdentityNetNetwork(checkpoint.identitynet(dtype), checkpoint.dims)


def unet(checkpoint: Checkpoint, dtype: torch.dtype) -> nn.Module:
    """The contract ``unet``."""
    return UNetNetwork(checkpoint.unet(dtype), checkpoint.dims)


def vae_decoder(checkpoint: Checkpoint, dtype: torch.dtype) -> nn.Module:
    """The contract ``vae_decoder``; with a smaller residual stream if the checkpoint says that fp16 overflows."""
    if not checkpoint.vae_config.get("force_upcast"):
        return VAEDecoderNetwork(checkpoint.vae(dtype))
    vae: Any = checkpoint.vae(torch.float32)
    scale_residual_stream(vae.decoder)
    for part in filter(None, (vae.decoder, vae.post_quant_conv)):
        part.to(dtype)
    return VAEDecoderNetwork(vae)


BUILDERS: Mapping[str, Callable[[Checkpoint, torch.dtype], nn.Module]] = {
    builder.__name__: builder
    for builder in (
        text_encoder,
        text_encoder_2,
        image_projection,
        control_embedding,
        time_embedding,
        cross_attention,
        identitynet,
        unet,
        vae_decoder,
    )
}


def build_network(name: str, checkpoint: Checkpoint, dtype: torch.dtype) -> nn.Module:
    """The torch module of a network that is not a face network, in eval mode."""
    return BUILDERS[name](checkpoint, dtype).eval()
