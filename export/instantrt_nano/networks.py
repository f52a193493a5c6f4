"""The torch networks of the nano checkpoint: InstantID's module classes at nano sizes."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from instantrt_export.dims import face_attention_sites
from instantrt_export.modules.resampler import Resampler, ResamplerShape
from instantrt_nano.tokenizer import TOKENS
from instantrt_nano.weights import fill_with_random, pass_latents_through, seeded_normal

TEXT_WIDTH = 64
TOKEN_WIDTH = 2 * TEXT_WIDTH
FACE_EMBEDDING_WIDTH = 128
VAE_SCALE = 8
PICTURE_PX = 128

_CHANNELS = (64, 96, 96)
_HEAD_WIDTH = 32
_TIME_ID_WIDTH = 8
_BLOCKS = {
    "in_channels": 4,
    "block_out_channels": _CHANNELS,
    "layers_per_block": 1,
    "transformer_layers_per_block": (1, 1, 1),
    "down_block_types": ("CrossAttnDownBlock2D",) * len(_CHANNELS),
    "attention_head_dim": tuple(c // _HEAD_WIDTH for c in _CHANNELS),  # diffusers means the number of heads
    "cross_attention_dim": TOKEN_WIDTH,
    "use_linear_projection": True,
    "norm_num_groups": 16,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": _TIME_ID_WIDTH,
    "projection_class_embeddings_input_dim": TEXT_WIDTH + 6 * _TIME_ID_WIDTH,
}


def new_unet() -> nn.Module:
    """UNet2DConditionModel: 3 levels with cross-attention at each."""
    model: nn.Module = UNet2DConditionModel(
        sample_size=PICTURE_PX // VAE_SCALE,
        out_channels=4,
        up_block_types=("CrossAttnUpBlock2D",) * len(_CHANNELS),
        **_BLOCKS,
    )
    return model


def unet(seed: int) -> nn.Module:
    """:func:`new_unet` with random weights whose prediction follows its input."""
    model = new_unet()
    fill_with_random(model, "unet", seed)
    _scale(model, "conv_out.weight", 0.7)
    pass_latents_through(model, share=1.2)
    return model


def new_identitynet() -> nn.Module:
    """ControlNetModel with the UNet's blocks."""
    model: nn.Module = ControlNetModel(conditioning_embedding_out_channels=(8, 16, 32, 64), **_BLOCKS)
    return model


def identitynet(seed: int) -> nn.Module:
    """:func:`new_identitynet` with random weights, and no convolution zero."""
    model = new_identitynet()
    fill_with_random(model, "identitynet", seed)
    return model


def new_vae(scaling_factor: float) -> nn.Module:
    """AutoencoderKL whose latents times ``scaling_factor`` are what is denoised."""
    model: nn.Module = AutoencoderKL(
        block_out_channels=(24, 48, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=PICTURE_PX,
        scaling_factor=scaling_factor,
        force_upcast=False,
    )
    return model


def vae(seed: int) -> nn.Module:
    """:func:`new_vae` with SDXL's scaling; pictures of plain latents use about half of the range of a picture."""
    model = new_vae(scaling_factor=0.13025)
    fill_with_random(model, "vae", seed)
    _scale(model, "decoder.conv_out.weight", 0.5)
    return model


def new_text_encoder(vocabulary: int) -> nn.Module:
    """CLIPTextModel, as SDXL's first."""
    model: nn.Module = CLIPTextModel(_text_config("quick_gelu", vocabulary, pad=vocabulary - 1))
    return model


def text_encoder(seed: int, vocabulary: int) -> nn.Module:
    """:func:`new_text_encoder` with random weights."""
    model = new_text_encoder(vocabulary)
    fill_with_random(model, "text_encoder", seed)
    return model


def new_text_encoder_2(vocabulary: int) -> nn.Module:
    """CLIPTextModelWithProjection, as SDXL's second."""
    model: nn.Module = CLIPTextModelWithProjection(_text_config("gelu", vocabulary, pad=0))
    return model


def text_encoder_2(seed: int, vocabulary: int) -> nn.Module:
    """:func:`new_text_encoder_2` with random weights."""
    model = new_text_encoder_2(vocabulary)
    fill_with_random(model, "text_encoder_2", seed)
    return model


def new_resampler() -> Resampler:
    """Face embeddings to 16 face tokens."""
    return Resampler(ResamplerShape(128, 2, 2, 16, FACE_EMBEDDING_WIDTH, TOKEN_WIDTH, 256))


def adapter_weights(seed: int, unet: nn.Module) -> dict[str, torch.Tensor]:
    """The adapter file's tensors by flat name: the Resampler and the face attention of every cross-attention."""
    resampler = new_resampler()
    fill_with_random(resampler, "image_proj", seed)
    weights = {f"image_proj.{name}": tensor for name, tensor in resampler.state_dict().items()}
    for site in face_attention_sites(unet, VAE_SCALE):
        for name, size, gain in ((site.key_name, site.key_shape, 1.7), (site.value_name, site.value_shape, 1.0)):
            weights[name] = seeded_normal(size, name, seed) * gain / size[1] ** 0.5
    return weights


def _text_config(activation: str, vocabulary: int, pad: int) -> Any:
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        projection_dim=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        hidden_act=activation,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=pad,
    )


def _scale(module: nn.Module, name: str, factor: float) -> None:
    with torch.no_grad():
        module.get_parameter(name).mul_(factor)
