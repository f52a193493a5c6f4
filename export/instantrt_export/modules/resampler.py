"""The Resampler: a perceiver that turns one face embedding into a few face tokens.

The architecture is that of IP-Adapter-plus' image projection (Ye et al., 2023, after Flamingo's perceiver resampler,
Alayrac et al., 2022). The names of the weights are those of ``image_proj`` in the published ``ip-adapter.bin``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

HEAD_WIDTH = 64  # of every published adapter; the weights do not tell


@dataclass(frozen=True)
class ResamplerShape:
    """The sizes of a Resampler, as its weights tell them."""

    width: int  # InstantID 1280
    depth: int  # 4
    heads: int  # 20, of HEAD_WIDTH each
    queries: int  # face tokens, 16
    input_width: int  # face embedding, 512
    output_width: int  # cross-attention width, 2048
    ff_width: int  # inner width of the feed-forward layers, 4 * width


class PerceiverAttention(nn.Module):
    """Attention from latents to the inputs and to the latents themselves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        inner = heads * HEAD_WIDTH
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, inputs: Tensor, latents: Tensor) -> Tensor:
        """[R, L, width] inputs and [R, Q, width] latents to [R, Q, width]."""
        latents = self.norm2(latents)
        keys, values = self.to_kv(torch.cat([self.norm1(inputs), latents], dim=1)).chunk(2, dim=-1)
        queries = self._split_heads(self.to_q(latents))
        # Scaling both sides keeps their product within fp16's range, where scaling the product would come too late.
        scale = HEAD_WIDTH**-0.25
        scores = (queries * scale) @ (self._split_heads(keys) * scale).transpose(-2, -1)
        mixed = scores.softmax(dim=-1) @ self._split_heads(values)
        merged: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return merged

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, HEAD_WIDTH).transpose(1, 2)  # [R, L, inner] -> [R, heads, L, 64]


def _feed_forward(width: int, inner: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, inner, bias=False), nn.GELU(), nn.Linear(inner, width, bias=False)
    )


class Resampler(nn.Module):
    """Face embeddings to face tokens."""

    def __init__(self, shape: ResamplerShape) -> None:
        super().__init__()
        self.shape = shape
        self.latents = nn.Parameter(torch.randn(1, shape.queries, shape.width) / shape.width**0.5)
        self.proj_in = nn.Linear(shape.input_width, shape.width)
        self.proj_out = nn.Linear(shape.width, shape.output_width)
        self.norm_out = nn.LayerNorm(shape.output_width)
        layers = (
            nn.ModuleList([PerceiverAttention(shape.width, shape.heads), _feed_forward(shape.width, shape.ff_width)])
            for _ in range(shape.depth)
        )
        self.layers = nn.ModuleList(layers)

    def forward(self, embeddings: Tensor) -> Tensor:
        """[R, L, input_width] embeddings, not normalised, (L = 1) to [R, queries, output_width] face tokens."""
        inputs = self.proj_in(embeddings)
        latents = self.latents.expand(embeddings.shape[0], -1, -1)
        for layer in self.layers:
            attention, feed_forward = layer.children()
            latents = latents + attention(inputs, latents)
            latents = latents + feed_forward(latents)
        tokens: Tensor = self.norm_out(self.proj_out(latents))
        return tokens
