"""The sizes of the networks: SDXL's own, and small ones that go through the same code in seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from instantrt_export.modules.resampler import ResamplerShape

TIME_ID_WIDTH = 256  # of one of the six time ids


@dataclass(frozen=True)
class Scale:
    """The configs of one checkpoint's networks.

    Args:
        name: on the command line.
        picture_px: side of the square picture that the checkpoint is for.
        unet: of diffusers' ``UNet2DConditionModel``; IdentityNet shares its encoder's part.
        control_channels: of IdentityNet's picture convolutions.
        vae: of diffusers' ``AutoencoderKL``.
        text: of the first text encoder; ``text_2`` of the second.
        resampler: sizes of the image projection.
        face_blocks: residual blocks per stage of the face encoder.
    """

    name: str
    picture_px: int
    unet: dict[str, Any]
    control_channels: tuple[int, ...]
    vae: dict[str, Any]
    text: dict[str, Any]
    text_2: dict[str, Any]
    resampler: ResamplerShape
    face_blocks: tuple[int, int, int, int]


def _unet(channels: tuple[int, ...], layers: tuple[int, ...], token_width: int, pooled: int, px: int) -> dict[str, Any]:
    crossed = tuple(f"{'CrossAttn' if count else ''}DownBlock2D" for count in layers)
    return {
        "sample_size": px // 8,
        "in_channels": 4,
        "block_out_channels": channels,
        "layers_per_block": 2,
        "transformer_layers_per_block": tuple(max(count, 1) for count in layers),
        "down_block_types": crossed,
        "attention_head_dim": tuple(max(channel // 64, 1) for channel in channels),  # diffusers means their number
        "cross_attention_dim": token_width,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": TIME_ID_WIDTH,
        "projection_class_embeddings_input_dim": pooled + 6 * TIME_ID_WIDTH,
    }


def _vae(channels: tuple[int, ...], px: int) -> dict[str, Any]:
    return {
        "block_out_channels": channels,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "latent_channels": 4,
        "sample_size": px,
        "scaling_factor": 0.13025,
        "force_upcast": False,  # as the VAEs that are safe in fp16 say
    }


def _text(vocabulary: int, width: int, layers: int, activation: str) -> dict[str, Any]:
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "projection_dim": width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // 64,
        "max_position_embeddings": 77,
        "hidden_act": activation,
    }


SDXL = Scale(
    name="sdxl",
    picture_px=1024,
    unet=_unet((320, 640, 1280), (0, 2, 10), 2048, 1280, 1024),
    control_channels=(16, 32, 96, 256),
    vae=_vae((128, 256, 512, 512), 1024),
    text=_text(49408, 768, 12, "quick_gelu"),
    text_2=_text(49408, 1280, 32, "gelu"),
    resampler=ResamplerShape(1280, 4, 20, 16, 512, 2048, 5120),
    face_blocks=(3, 13, 30, 3),
)
SMALL = Scale(
    name="small",
    picture_px=256,
    unet=_unet((32, 64, 128), (0, 1, 2), 128, 64, 256),
    control_channels=(8, 16, 24, 32),
    vae=_vae((32, 32, 64, 64), 256),
    text=_text(1000, 64, 2, "quick_gelu"),
    text_2=_text(1000, 64, 3, "gelu"),
    resampler=ResamplerShape(128, 2, 2, 16, 512, 128, 256),
    face_blocks=(1, 1, 1, 1),
)
SCALES = {scale.name: scale for scale in (SDXL, SMALL)}


def with_stock_vae(scale: Scale) -> Scale:
    """The same with a VAE that overflows in fp16 according to its config, as SDXL's own does."""
    return replace(scale, vae={**scale.vae, "force_upcast": True})
