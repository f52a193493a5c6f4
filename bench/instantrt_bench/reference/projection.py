"""The adapter's image projection as diffusers builds it: the reference's own, which shares no code with the export."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from diffusers.models.embeddings import IPAdapterPlusImageProjection

HEAD_WIDTH = 64  # of every IP-Adapter resampler; the weights do not tell

# "layers.I.0" is the attention and "layers.I.1" the feed-forward of block I in an adapter file.
_RENAMES = (
    (r"^layers\.(\d+)\.0\.norm1\.", r"layers.\1.ln0."),
    (r"^layers\.(\d+)\.0\.norm2\.", r"layers.\1.ln1."),
    (r"^layers\.(\d+)\.0\.to_q\.", r"layers.\1.attn.to_q."),
    (r"^layers\.(\d+)\.0\.to_out\.", r"layers.\1.attn.to_out.0."),
    (r"^layers\.(\d+)\.1\.0\.", r"layers.\1.ff.0."),
    (r"^layers\.(\d+)\.1\.1\.", r"layers.\1.ff.1.net.0.proj."),
    (r"^layers\.(\d+)\.1\.3\.", r"layers.\1.ff.1.net.2."),
)


def image_projection_from(weights: Mapping[str, torch.Tensor]) -> IPAdapterPlusImageProjection:
    """diffusers' Perceiver resampler with the ``image_proj`` weights of an adapter file, of any width and depth.

    diffusers' own loader (``UNet2DConditionLoadersMixin``) makes the same module but only four blocks deep.
    """
    inner_width, hidden_width = weights["layers.0.0.to_q.weight"].shape
    projection = IPAdapterPlusImageProjection(
        embed_dims=weights["proj_in.weight"].shape[1],
        output_dims=weights["proj_out.weight"].shape[0],
        hidden_dims=hidden_width,
        depth=1 + max(int(key.split(".")[1]) for key in weights if key.startswith("layers.")),
        dim_head=HEAD_WIDTH,
        heads=inner_width // HEAD_WIDTH,
        num_queries=weights["latents"].shape[1],
        ffn_ratio=weights["layers.0.1.1.weight"].shape[0] / hidden_width,
    )
    projection.load_state_dict(_renamed(weights))
    return projection.to(weights["latents"].dtype).eval()


def _renamed(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for key, value in weights.items():
        if key.endswith(".0.to_kv.weight"):
            block = key.split(".")[1]
            renamed[f"layers.{block}.attn.to_k.weight"], renamed[f"layers.{block}.attn.to_v.weight"] = value.chunk(2)
            continue
        for pattern, replacement in _RENAMES:
            key = re.sub(pattern, replacement, key)  # noqa: PLW2901 - the patterns exclude each other
        renamed[key] = value
    return renamed
