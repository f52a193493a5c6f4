"""SDXL's VAE decoder with random weights in each precision that it can have, and one that plain fp16 cannot hold."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from instantrt.device import Array
from instantrt_bench.full_size.checkpoint import RandomComponent, random_checkpoint
from instantrt_bench.full_size.scales import Scale, with_stock_vae
from instantrt_export.networks.builders import build_network

NETWORK = "vae_decoder"
INFLATION = 3e4  # of what goes into the residual stream: plain fp16 overflows, a scaled stream has room for more


@dataclass(frozen=True)
class VaePrecision:
    """One way of exporting the decoder.

    Args:
        name: in results.
        dtype: of its weights and feature maps.
        scaled: with a smaller residual stream, as a checkpoint with ``force_upcast`` is exported.
    """

    name: str
    dtype: torch.dtype
    scaled: bool = False


FP32, FP16, SCALED_FP16 = VAE_PRECISIONS = (  # the first is what the others are held against
    VaePrecision("fp32", torch.float32),
    VaePrecision("fp16", torch.float16),
    VaePrecision("scaled fp16", torch.float16, scaled=True),
)


class RandomDecoders:
    """The decoder as the export builds it, with the same random weights in every precision.

    Args:
        scale: sizes of the networks.
        seed: of the weights.
        device: where they are drawn and stay.
    """

    def __init__(self, scale: Scale, seed: int, device: torch.device) -> None:
        self._device = device
        self._checkpoints = {
            scaled: random_checkpoint(with_stock_vae(scale) if scaled else scale, None, seed, NETWORK, device)
            for scaled in (False, True)
        }

    def make(self, precision: VaePrecision, inflation: float | None = None) -> nn.Module:
        """One of them; ``inflation``: see :func:`inflate`."""
        checkpoint = self._checkpoints[precision.scaled]
        if inflation is not None:
            inflated = InflatedVae(**vars(checkpoint.components["vae"]), inflation=inflation)
            checkpoint = replace(checkpoint, components={**checkpoint.components, "vae": inflated})
        return build_network(NETWORK, checkpoint, precision.dtype).requires_grad_(False).to(self._device)


def decode(decoder: nn.Module, latents: Tensor) -> Array:
    """What is decoded from latents f32 [B, 4, h, w] before it is made to bytes: f32 [B, 3, H, W]."""
    decoded: list[Tensor] = []
    inner: Any = decoder.decoder
    hook = inner.register_forward_hook(lambda _module, _inputs, output: decoded.append(output))
    with torch.inference_mode():
        decoder(latents)
    hook.remove()
    return np.asarray(decoded[0].float().cpu())


@dataclass(frozen=True)
class InflatedVae(RandomComponent):
    """A VAE with random weights whose decoder is inflated."""

    inflation: float

    def load(self, dtype: torch.dtype) -> nn.Module:
        """The VAE with its weights on the device."""
        vae = super().load(dtype)
        inflate(vae, self.inflation)
        return vae


def inflate(vae: Any, factor: float) -> None:
    """Make what goes into the residual stream, and what is between the convolutions of a block, so much larger."""
    with torch.no_grad():
        for name, parameter in vae.decoder.named_parameters():
            if any(layer in name for layer in ("conv_in.", "conv1.", "conv2.", "to_out.")):
                parameter.mul_(factor)
