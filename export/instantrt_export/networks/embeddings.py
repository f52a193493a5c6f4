"""What is computed once per request for the loop: time embeddings of every step, and control features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instantrt_export.dims import resnets


class TimeEmbedding(nn.Module):
    """Timestep, pooled text and picture sizes to a time embedding and its projections for all resnets, side by side.

    Args:
        network: a UNet or ControlNet with SDXL's added conditions, whose modules are used.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.time_proj, self.time_embedding = network.time_proj, network.time_embedding
        self.add_time_proj, self.add_embedding = network.add_time_proj, network.add_embedding
        projections = [resnet.time_emb_proj for resnet in resnets(network)]
        self.weight = nn.Parameter(torch.cat([p.weight for p in projections]), requires_grad=False)
        self.bias = nn.Parameter(torch.cat([p.bias for p in projections]), requires_grad=False)

    def forward(self, timesteps: Tensor, pooled: Tensor, time_ids: Tensor) -> Tensor:
        """Timesteps f32 [T], pooled [G, P] and time_ids f32 [G, 6] to [T, G, sum of the resnets' widths]."""
        # The projections are fp32 (timesteps reach 999); cast before joining them with pooled text, because
        # TensorRT refuses a Concat of mixed types.
        steps: Tensor = self.time_embedding(self.time_proj(timesteps).to(pooled.dtype))
        sizes = self.add_time_proj(time_ids.flatten()).unflatten(0, time_ids.shape).flatten(1).to(pooled.dtype)
        added: Tensor = self.add_embedding(torch.cat([pooled, sizes], dim=-1))
        return F.linear(F.silu(steps.unsqueeze(1) + added), self.weight, self.bias)


class TimeEmbeddingNetwork(nn.Module):
    """The contract ``time_embedding``: the UNet's and IdentityNet's time embeddings, [T, G, width] each."""

    def __init__(self, unet: TimeEmbedding, identitynet: TimeEmbedding) -> None:
        super().__init__()
        self.unet, self.identitynet = unet, identitynet

    def forward(self, timesteps: Tensor, pooled: Tensor, time_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Timesteps f32 [T], pooled [G, P], time_ids f32 [G, 6] (original h, w, crop top, left, target h, w)."""
        return self.unet(timesteps, pooled, time_ids), self.identitynet(timesteps, pooled, time_ids)


class GivenTimeEmbedding(nn.Module):
    """Takes the place of a resnet's projection of the time embedding: picks the one that was computed for it.

    Args:
        index: of the resnet among those of its network.
    """

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def forward(self, projections: Sequence[Tensor]) -> Tensor:
        """One of all resnets' projections."""
        return projections[self.index]


def use_given_time_embeddings(network: Any) -> tuple[int, ...]:
    """Makes the resnets of a UNet or ControlNet take a sequence of all their projections as ``temb``.

    Returns:
        the widths of the projections.
    """
    widths = []
    for index, resnet in enumerate(resnets(network)):
        widths.append(resnet.time_emb_proj.out_features)
        resnet.time_emb_proj, resnet.skip_time_act = GivenTimeEmbedding(index), True
    return tuple(widths)


class ControlEmbeddingNetwork(nn.Module):
    """The contract ``control_embedding``: a keypoint picture to IdentityNet's control features.

    Args:
        identitynet: the ControlNet whose conditioning embedding is used, in the network's dtype.
    """

    def __init__(self, identitynet: Any) -> None:
        super().__init__()
        self.embedding = identitynet.controlnet_cond_embedding
        self.reverse_channels = identitynet.config.controlnet_conditioning_channel_order == "bgr"

    def forward(self, image: Tensor) -> Tensor:
        """Picture u8 [B, H, W, 3] to features [B, channels, H/8, W/8]."""
        x = image.float().permute(0, 3, 1, 2) / 255  # cast first: TensorRT takes u8 as an input and nowhere else
        x = x.flip(1) if self.reverse_channels else x
        features: Tensor = self.embedding(x.to(self.embedding.conv_in.weight.dtype))
        return features
