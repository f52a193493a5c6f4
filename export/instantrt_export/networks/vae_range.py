"""A VAE decoder whose numbers fit fp16 although its checkpoint's do not: the same arithmetic on a smaller stream.

The decoder's feature maps grow along a stream to which every block adds, and every reader of the stream normalises what
it reads. So the stream may be any multiple s of itself: what is added is made s times smaller, and the norms' epsilon
s^2 times, since it is added to a variance. The same holds inside a block, between its first convolution and second
norm. With s a power of two, all of that is exact in floating point: significands stay, exponents change. The last norm
ends the stream, so nothing is scaled back.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from instantrt.errors import CheckpointError

STREAM_SCALE = 2.0**-7
"""Room for numbers up to 8.4 million. Weights of 0.01, which are usual, are then still normal numbers of fp16."""


def scale_residual_stream(decoder: Any, scale: float = STREAM_SCALE) -> None:
    """Makes the numbers inside a decoder ``scale`` times as large, in place; what it gives stays the same.

    Args:
        decoder: diffusers' ``Decoder``, in fp32: scaled weights are to be rounded once.
        scale: a power of two.

    Raises:
        CheckpointError: the decoder has layers of which it is not known how they treat a scaled stream.
    """
    known = dict.fromkeys((decoder.conv_in, decoder.conv_norm_out, decoder.conv_act, decoder.conv_out))
    with torch.no_grad():
        _scale_layer(decoder.conv_in, scale)
        _scale_epsilon(decoder.conv_norm_out, scale)
        for part in decoder.modules():
            known.update(dict.fromkeys(_scaled_parts(part, scale)))
    unknown = [name for name, part in decoder.named_modules() if _computes(part) and part not in known]
    if unknown or not isinstance(decoder.conv_norm_out, nn.GroupNorm):
        raise CheckpointError(
            "the VAE asks for more range than fp16 has (force_upcast), and its decoder is of an unknown kind",
            found=", ".join(unknown[:4]) or type(decoder.conv_norm_out).__name__,
            hint="export it with --vae-precision fp32",
        )


def _scaled_parts(part: nn.Module, scale: float) -> Iterator[nn.Module]:
    """Scales what a block adds to the stream, and yields the layers of which it took care."""
    if isinstance(part, ResnetBlock2D) and part.time_emb_proj is None:
        for norm in (part.norm1, part.norm2):
            _scale_epsilon(norm, scale)
        for convolution in (part.conv1, part.conv2):
            _scale_layer(convolution, scale)
        if part.conv_shortcut is not None:
            _scale_bias(part.conv_shortcut, scale)  # it reads the stream itself
            yield part.conv_shortcut
        yield from (part.norm1, part.norm2, part.conv1, part.conv2, part.nonlinearity, part.dropout)
    elif isinstance(part, Attention) and isinstance(part.group_norm, nn.GroupNorm):
        _scale_epsilon(part.group_norm, scale)
        _scale_layer(part.to_out[0], scale)
        yield from (part.group_norm, part.to_q, part.to_k, part.to_v, *part.to_out)
    elif isinstance(part, Upsample2D) and part.norm is None and isinstance(part.conv, nn.Conv2d):
        _scale_bias(part.conv, scale)  # it reads the stream itself
        yield part.conv


def _computes(part: nn.Module) -> bool:
    """Whether it is no mere container of others."""
    return not any(True for _ in part.children()) and not isinstance(part, nn.ModuleList)


def _scale_layer(layer: Any, scale: float) -> None:
    layer.weight.mul_(scale)
    _scale_bias(layer, scale)


def _scale_bias(layer: Any, scale: float) -> None:
    if layer.bias is not None:
        layer.bias.mul_(scale)


def _scale_epsilon(norm: Any, scale: float) -> None:
    norm.eps *= scale**2
