"""The sizes that contracts depend on, derived from a checkpoint's configs, and whether its parts fit each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.models.resnet import ResnetBlock2D
from torch import nn

from instantrt.contracts import ModelDims, Residual
from instantrt_export.adapter import FaceAttentionSite
from instantrt_export.components import Component
from instantrt_export.faces.graphs import FaceModels
from instantrt_export.modules.resampler import ResamplerShape

_TIME_IDS = 6  # original size, crop corner, target size


def cross_attentions(network: Any) -> list[Any]:
    """The cross-attentions of a UNet or ControlNet in the order of its attention processors."""
    attentions = (network.get_submodule(name.removesuffix(".processor")) for name in network.attn_processors)
    return [attention for attention in attentions if attention.is_cross_attention]


def resnets(network: Any) -> list[Any]:
    """The resnets of a UNet or ControlNet in the order of its modules."""
    return [module for module in network.modules() if isinstance(module, ResnetBlock2D)]


def face_attention_sites(unet: nn.Module, vae_stride: int) -> tuple[FaceAttentionSite, ...]:
    """The UNet's cross-attentions in the order of its attention processors: down blocks, up blocks, mid block."""
    sites = []
    processors: Any = unet.attn_processors
    for index, name in enumerate(processors):
        attention: Any = unet.get_submodule(name.removesuffix(".processor"))
        if attention.is_cross_attention:
            keys, values = tuple(attention.to_k.weight.shape), tuple(attention.to_v.weight.shape)
            sites.append(FaceAttentionSite(index, name, keys, values, vae_stride * _downsampling(name, unet)))
    return tuple(sites)


def model_dims(
    components: Mapping[str, Component],
    sites: tuple[FaceAttentionSite, ...],
    resampler: ResamplerShape,
    faces: FaceModels,
) -> ModelDims:
    """The sizes of a checkpoint whose parts fit each other."""
    unet, identitynet = components["unet"].config, components["identitynet"].config
    text, text_2 = components["text_encoder"].config, components["text_encoder_2"].config
    vae_stride = vae_downsampling(components["vae"])
    residuals, mid = identitynet_residuals(identitynet, vae_stride)
    return ModelDims(
        text_width=text.hidden_size,
        text_width_2=text_2.hidden_size,
        pooled_width=text_2.projection_dim,
        token_width=unet.cross_attention_dim,
        face_tokens=resampler.queries,
        face_embedding_width=faces.embedding_width,
        face_px=faces.face_px,
        detector=faces.detector_kind,
        detector_px=faces.detector_px,
        encoder=faces.encoder_kind,
        unet_time_width=_time_width(components["unet"]),
        unet_kv_width=_kv_width(components["unet"]),
        identitynet_time_width=_time_width(components["identitynet"]),
        identitynet_kv_width=_kv_width(components["identitynet"]),
        control_channels=identitynet.block_out_channels[0],
        residuals=residuals,
        mid_residual=mid,
        adapter_strides=tuple(sorted({site.stride for site in sites})),
        text_tokens=text.max_position_embeddings,
        latent_channels=unet.in_channels,
        vae_stride=vae_stride,
    )


def identitynet_residuals(config: Any, vae_stride: int) -> tuple[tuple[Residual, ...], Residual]:
    """The residuals in diffusers' order: conv_in, then per block its layers and downsampler; then the mid block's."""
    channels = config.block_out_channels
    layers = config.layers_per_block
    per_block = [layers] * len(channels) if isinstance(layers, int) else layers
    stride = vae_stride
    residuals = [Residual(channels[0], stride)]
    for i, (width, count) in enumerate(zip(channels, per_block, strict=True)):
        residuals += [Residual(width, stride)] * count
        if i < len(channels) - 1:
            stride *= 2
            residuals.append(Residual(width, stride))
    return tuple(residuals), Residual(channels[-1], stride)


def vae_downsampling(vae: Component) -> int:
    """Picture pixels per latent pixel, along each side."""
    return int(2 ** (len(vae.config.block_out_channels) - 1))


def misfits(
    components: Mapping[str, Component], resampler: ResamplerShape, adapter: Path, faces: FaceModels
) -> list[str]:
    """Every size in which two parts of the checkpoint disagree, one sentence with both files each."""
    config = {name: c.config for name, c in components.items()}
    file = {name: f"{c.folder / 'config.json'}" for name, c in components.items()}
    unet, net, vae = config["unet"], config["identitynet"], config["vae"]
    text, text_2 = config["text_encoder"], config["text_encoder_2"]
    pooled = text_2.projection_dim + _TIME_IDS * (unet.addition_time_embed_dim or 0)
    width, both_texts = unet.cross_attention_dim, f"{file['text_encoder']} and {file['text_encoder_2']}"
    blocks = ("block_out_channels", "layers_per_block", "down_block_types")
    same_in_both = (*blocks, "in_channels", "addition_time_embed_dim")

    # (what, first file, its value, second file, its value)
    pairs: list[tuple[str, str, Any, str, Any]] = [
        ("cross-attention width, sum of text widths", file["unet"], width, both_texts, _sum_of_widths(text, text_2)),
        ("cross-attention width, Resampler's output", file["unet"], width, str(adapter), resampler.output_width),
        ("cross-attention width", file["unet"], width, file["identitynet"], net.cross_attention_dim),
        ("added-condition width", file["unet"], unet.projection_class_embeddings_input_dim, both_texts, pooled),
        ("added-condition width", file["identitynet"], net.projection_class_embeddings_input_dim, both_texts, pooled),
        ("face embedding width", str(faces.encoder), faces.embedding_width, str(adapter), resampler.input_width),
        ("latent channels", file["unet"], unet.in_channels, file["vae"], vae.latent_channels),
        ("latent channels in and out", file["unet"], unet.in_channels, file["unet"], unet.out_channels),
        ("token count", file["text_encoder"], text.max_position_embeddings, file["text_encoder_2"], _length(text_2)),
        ("downsampling", file["vae"], vae_downsampling(components["vae"]), file["identitynet"], _conditioning(net)),
    ]
    pairs += [(key, file["unet"], unet[key], file["identitynet"], net[key]) for key in same_in_both]
    return [
        f"{what}: {first} has {_plain(a)}, {second} has {_plain(b)}"
        for what, first, a, second, b in pairs
        if _plain(a) != _plain(b)
    ]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _sum_of_widths(text: Any, text_2: Any) -> int:
    return int(text.hidden_size + text_2.hidden_size)


def _length(text: Any) -> int:
    return int(text.max_position_embeddings)


def _conditioning(identitynet: Any) -> int:
    """How much the convolutions of the control picture shrink it."""
    return int(2 ** (len(identitynet.conditioning_embedding_out_channels) - 1))


def _time_width(component: Component) -> int:
    return sum(resnet.time_emb_proj.out_features for resnet in resnets(component.skeleton))


def _kv_width(component: Component) -> int:
    attentions = cross_attentions(component.skeleton)
    return sum(attention.to_k.out_features + attention.to_v.out_features for attention in attentions)


def _downsampling(processor: str, unet: Any) -> int:
    """Latent pixels per feature pixel, along each side, at an attention processor."""
    levels = len(unet.config.block_out_channels)
    part, number = processor.split(".")[:2]
    if part == "down_blocks":
        return int(2 ** int(number))
    return int(2 ** (levels - 1 - int(number))) if part == "up_blocks" else int(2 ** (levels - 1))
