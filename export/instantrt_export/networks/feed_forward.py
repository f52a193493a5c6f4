"""The gated feed-forward layers of transformer blocks."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from torch import Tensor, nn


class GatedLinear(nn.Module):
    """diffusers' GEGLU (Shazeer 2020) with a matrix product for the gate alone: splitting a joint one would copy it.

    Args:
        geglu: whose weights are used, as views.
    """

    def __init__(self, geglu: Any) -> None:
        super().__init__()
        weight, gate_weight = geglu.proj.weight.detach().chunk(2)
        bias, gate_bias = geglu.proj.bias.detach().chunk(2)
        self.weight, self.bias = (nn.Parameter(x, requires_grad=False) for x in (weight, bias))
        self.gate_weight, self.gate_bias = (nn.Parameter(x, requires_grad=False) for x in (gate_weight, gate_bias))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens [N, tokens, width] to [N, tokens, inner width]."""
        return F.linear(x, self.weight, self.bias) * F.gelu(F.linear(x, self.gate_weight, self.gate_bias))


def use_gated_linear(network: Any) -> None:
    """Puts :class:`GatedLinear` into every feed-forward layer of a UNet or ControlNet."""
    for layer in network.modules():
        if isinstance(layer, FeedForward) and isinstance(layer.net[0], GEGLU):
            layer.net[0] = GatedLinear(layer.net[0])
