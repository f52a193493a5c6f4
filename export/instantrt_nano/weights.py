"""Seeded random weights that make a network behave: nothing zero, nothing saturated, stable over 100 steps."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor, nn

# Layers that end a residual branch, and IdentityNet's outputs: smaller, so that depth does not blow up the sums.
_BRANCH_ENDS = ("conv2", "to_out.0", "ff.net.2", "proj_out", "fc2", "out_proj", "1.3")
_RESIDUALS = ("controlnet_down_blocks", "controlnet_mid_block")
_BRANCH_GAIN = 0.5
# Queries and keys: larger, so that attention differs from a plain mean.
_ATTENTION = ("to_q", "to_k", "to_k_ip", "to_kv", "q_proj", "k_proj")
_ATTENTION_GAIN = 1.7
# The control picture's convolutions: each SiLU about halves small numbers, and there are seven in a row.
_CONTROL_PICTURE, _CONTROL_PICTURE_GAIN = "controlnet_cond_embedding", 2.2


def fill_with_random(module: nn.Module, label: str, seed: int) -> None:
    """Overwrites every parameter of ``module`` with numbers that depend on its name, ``label`` and ``seed``.

    They are drawn on the parameter's device; each kind of device draws others.
    """
    norms = {n for n, m in module.named_modules() if isinstance(m, nn.LayerNorm | nn.GroupNorm)}
    embeddings = {n for n, m in module.named_modules() if isinstance(m, nn.Embedding)}
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.is_meta:  # left out on purpose
                continue
            layer, _, kind = name.rpartition(".")
            noise = seeded_normal(parameter.shape, f"{label}.{name}", seed, parameter.device)
            if kind == "bias" or layer in norms:
                value = 0.1 * noise + (kind == "weight")
            elif layer in embeddings or parameter.ndim < 2:
                value = noise
            else:
                value = noise * (_gain(layer) / parameter[0].numel() ** 0.5)
            parameter.copy_(value)


def seeded_normal(
    shape: torch.Size | tuple[int, ...], label: str, seed: int, device: torch.device | str = "cpu"
) -> Tensor:
    """Standard normal float32 numbers from torch's generator on ``device``."""
    digest = zlib.crc32(f"{seed} {label}".encode())  # torch's CPU generator uses the lower 32 bits of a seed only
    generator = torch.Generator(device).manual_seed(digest)
    return torch.randn(shape, generator=generator, device=device)


def _gain(layer: str) -> float:
    if layer.endswith(_ATTENTION):
        return _ATTENTION_GAIN
    if layer.startswith(_CONTROL_PICTURE):
        return _CONTROL_PICTURE_GAIN
    return _BRANCH_GAIN if layer.endswith(_BRANCH_ENDS) or layer.startswith(_RESIDUALS) else 1.0


def pass_latents_through(unet: nn.Module, share: float) -> None:
    """Makes the UNet's prediction follow its input, as a trained one's does at high noise.

    Random weights alone predict something unrelated to the noise, so that the noise stays and drowns what the network
    does. Here each latent channel runs through two feature channels, as x and -x, of the first convolution, the
    outermost skip connection and the last convolution, which puts it together again: silu(x) - silu(-x) = x.

    Args:
        unet: a UNet2DConditionModel whose weights are set.
        share: of the (normalised) input in the prediction.
    """
    first, last = unet.get_submodule("conv_in"), unet.get_submodule("conv_out")
    top = len(unet.get_submodule("up_blocks")._modules) - 1
    resnets = unet.get_submodule(f"up_blocks.{top}.resnets")
    skip = resnets.get_submodule(f"{len(resnets._modules) - 1}.conv_shortcut")
    weights = [layer.get_parameter("weight") for layer in (first, skip, last)]
    conv_in, shortcut, conv_out = weights
    below = shortcut.shape[1] - conv_in.shape[0]  # of the shortcut's inputs the skip connection comes last
    with torch.no_grad():
        for channel in range(conv_in.shape[1]):
            for feature, sign in ((2 * channel, 1.0), (2 * channel + 1, -1.0)):
                conv_in[feature] = 0
                conv_in[feature, channel, 1, 1] = sign
                shortcut[feature] = 0
                shortcut[feature, below + feature] = 1
                conv_out[channel, feature, 1, 1] += sign * share
