"""The trained networks as one module, with strengths, masks and dropped conditions that differ between rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instantrt_export.dims import face_attention_sites
from instantrt_nano import networks
from instantrt_nano.networks import PICTURE_PX, TOKEN_WIDTH, VAE_SCALE

LATENT_PX = PICTURE_PX // VAE_SCALE


@dataclass(frozen=True)
class Conditions:
    """Of B rows.

    Args:
        text_tokens: f32 [B, 77, TOKEN_WIDTH].
        pooled: f32 [B, 64].
        embeddings: f32 [B, 128], what the face attention is given.
        net_embeddings: f32 [B, 128], what IdentityNet is given.
        control_images: f32 [B, 3, PICTURE_PX, PICTURE_PX] in 0..1, keypoint pictures.
        identity_strength: f32 [B].
        adapter_strength: f32 [B].
        regions: f32 [B, PICTURE_PX, PICTURE_PX], 1 where both act.
    """

    text_tokens: Tensor
    pooled: Tensor
    embeddings: Tensor
    net_embeddings: Tensor
    control_images: Tensor
    identity_strength: Tensor
    adapter_strength: Tensor
    regions: Tensor


class FaceInput:
    """What the face attentions of one forward pass share: tokens [B, 16, W], and strength by number of queries."""

    tokens: Tensor
    strength: dict[int, Tensor]


class FaceAttention(nn.Module):
    """A cross-attention of the UNet with the adapter's face attention added, as InstantID does it."""

    def __init__(self, width: int, shared: FaceInput) -> None:
        super().__init__()
        self._shared = shared
        self.to_k_ip = nn.Linear(TOKEN_WIDTH, width, bias=False)
        self.to_v_ip = nn.Linear(TOKEN_WIDTH, width, bias=False)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,  # noqa: ARG002  diffusers passes both, always None here
        temb: None = None,  # noqa: ARG002
    ) -> Tensor:
        """[B, L, width] queries and [B, 77, TOKEN_WIDTH] text tokens to [B, L, width]."""

        def heads(x: Tensor) -> Tensor:
            split: Tensor = x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            return split

        queries = heads(attn.to_q(hidden_states))
        text = F.scaled_dot_product_attention(
            queries, heads(attn.to_k(encoder_hidden_states)), heads(attn.to_v(encoder_hidden_states))
        )
        tokens = self._shared.tokens
        face = F.scaled_dot_product_attention(queries, heads(self.to_k_ip(tokens)), heads(self.to_v_ip(tokens)))
        strength = self._shared.strength[hidden_states.shape[1]][:, None]
        merged = (text + strength * face).transpose(1, 2).flatten(2)
        out: Tensor = attn.to_out[0](merged)
        return out


def _replace_processors(unet: Any, replaced: Mapping[str, nn.Module]) -> None:
    unet.set_attn_processor(unet.attn_processors | replaced)


class NanoNetworks(nn.Module):
    """All that diffusion trains: UNet with face attention, IdentityNet, Resampler, both text encoders."""

    time_ids: Tensor

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.unet: Any = networks.new_unet()
        self.identitynet: Any = networks.new_identitynet()
        self.resampler = networks.new_resampler()
        self.text_encoder: Any = networks.new_text_encoder(vocabulary)
        self.text_encoder_2: Any = networks.new_text_encoder_2(vocabulary)
        self._face = FaceInput()
        self.sites = face_attention_sites(self.unet, VAE_SCALE)
        self.face_attentions = nn.ModuleList(FaceAttention(site.key_shape[0], self._face) for site in self.sites)
        _replace_processors(self.unet, {s.processor: a for s, a in zip(self.sites, self.face_attentions, strict=True)})
        ids = [PICTURE_PX, PICTURE_PX, 0, 0, PICTURE_PX, PICTURE_PX]
        self.register_buffer("time_ids", torch.tensor([ids], dtype=torch.float32), persistent=False)

    def encode(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Token ids i64 [2, n, 77] to text tokens [n, 77, TOKEN_WIDTH] and pooled [n, 64], as SDXL takes them."""
        first = self.text_encoder(ids[0], output_hidden_states=True)
        second = self.text_encoder_2(ids[1], output_hidden_states=True)
        return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1), second.text_embeds

    def forward(self, noisy: Tensor, timesteps: Tensor, given: Conditions) -> Tensor:
        """Noisy latents f32 [B, 4, h, w] and timesteps i64 [B] to the predicted noise."""
        added = {"text_embeds": given.pooled, "time_ids": self.time_ids.expand(len(noisy), -1)}
        adapter = (given.adapter_strength[:, None, None] * given.regions)[:, None]
        strength = (given.identity_strength[:, None, None] * given.regions)[:, None]
        residuals, middle = self.identitynet(
            noisy,
            timesteps,
            encoder_hidden_states=self.resampler(given.net_embeddings[:, None]),
            controlnet_cond=given.control_images,
            added_cond_kwargs=added,
            return_dict=False,
        )
        sizes = {residual.shape[-1] for residual in (*residuals, middle)}
        masks = {size: F.interpolate(strength, (size, size), mode="bilinear") for size in sizes}
        self._face.tokens = self.resampler(given.embeddings[:, None])
        self._face.strength = {
            side * side: F.interpolate(adapter, (side, side)).flatten(1)[..., None]
            for side in (LATENT_PX, LATENT_PX // 2, LATENT_PX // 4)
        }
        out: Tensor = self.unet(
            noisy,
            timesteps,
            encoder_hidden_states=given.text_tokens,
            added_cond_kwargs=added,
            down_block_additional_residuals=[residual * masks[residual.shape[-1]] for residual in residuals],
            mid_block_additional_residual=middle * masks[middle.shape[-1]],
        ).sample
        return out

    def adapter_weights(self) -> dict[str, Tensor]:
        """The adapter file's tensors by flat name."""
        weights = {f"image_proj.{name}": tensor for name, tensor in self.resampler.state_dict().items()}
        for site, attention in zip(self.sites, self.face_attentions, strict=True):
            weights[site.key_name] = attention.get_parameter("to_k_ip.weight").detach()
            weights[site.value_name] = attention.get_parameter("to_v_ip.weight").detach()
        return weights
