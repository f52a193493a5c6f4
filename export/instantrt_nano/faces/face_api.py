"""The three networks of the npm package ``@vladmandic/face-api`` that nano uses, rebuilt in torch.

The package (MIT) ships TensorFlow.js weights, most of them quantised to one byte, and TypeScript that describes the
networks: a tiny YOLOv2-like face detector, a densely connected regressor of 68 landmarks, and a port of dlib's ResNet
that embeds a face in 128 numbers. All take RGB 0-255, here as f32 [N, 3, H, W].
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

DETECTOR_MEAN = (117.001, 114.697, 97.404)
FACE_MEAN = (122.782, 117.001, 104.298)
ANCHORS = ((1.603231, 2.094468), (6.041143, 7.080126), (2.882459, 3.518061), (4.266906, 5.178857), (9.041765, 10.66308))
DETECTOR_STRIDE_PX = 32
LANDMARK_PX = 112
FACE_PX = 150

Weights = dict[str, Tensor]


def load_weights(package: Path, name: str) -> Weights:
    """Read the weights of network ``name`` from the unpacked npm package, dequantised to f32, in TensorFlow's layout.

    A quantised weight is ``byte * scale + min``, with the numbers of its entry in the weights manifest.

    Raises:
        ValueError: a weight is quantised to something else than bytes, or the manifest and the files disagree.
    """
    weights: Weights = {}
    for group in json.loads((package / "model" / f"{name}-weights_manifest.json").read_text()):
        data = b"".join((package / "model" / path).read_bytes() for path in group["paths"])
        offset = 0
        for entry in group["weights"]:
            dtype = np.dtype(entry.get("quantization", entry)["dtype"])
            if dtype not in (np.uint8, np.float32):
                raise ValueError(f"{name}: {entry['name']} is stored as {dtype}")
            stored = np.frombuffer(data, dtype, prod(entry["shape"]), offset).astype(np.float64)
            offset += stored.size * dtype.itemsize
            if dtype == np.uint8:
                stored = stored * entry["quantization"]["scale"] + entry["quantization"]["min"]
            weights[entry["name"]] = torch.from_numpy(stored.reshape(entry["shape"])).float()
        if offset != len(data):
            raise ValueError(f"{name}: the manifest describes {offset} bytes, the files have {len(data)}")
    return weights


class TinyFaceDetector(nn.Module):
    """Tiny YOLOv2 of depthwise separable convolutions: f32 [N, 3, S, S] -> f32 [N, S/32, S/32, 5 anchors, 5].

    The last axis holds the raw x, y, width, height and score. S is a multiple of 32.
    """

    mean: Tensor

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(DETECTOR_MEAN).view(1, 3, 1, 1), persistent=False)
        self.stem = _conv(weights["conv0/filters"], weights["conv0/bias"])
        self.blocks = nn.ModuleList(SeparableConv(weights, f"conv{i}", padding=1) for i in range(1, 6))
        self.head = _conv(weights["conv8/filters"], weights["conv8/bias"])

    def forward(self, pictures: Tensor) -> Tensor:
        """See the class."""
        x = F.leaky_relu(self.stem((pictures - self.mean) / 255), 0.1)
        for block in self.blocks:
            x = F.leaky_relu(block(F.max_pool2d(x, 2, 2, ceil_mode=True)), 0.1)
        # TensorFlow pads "same" pooling at the right and bottom only.
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-1e4), 2, 1)
        raw: Tensor = self.head(x)
        return raw.permute(0, 2, 3, 1).reshape(-1, *raw.shape[2:], len(ANCHORS), 5)


class Landmarks68(nn.Module):
    """68 landmarks of a square crop around a face: f32 [N, 3, 112, 112] -> f32 [N, 68, 2], in 0..1 of the crop."""

    mean: Tensor

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(FACE_MEAN).view(1, 3, 1, 1), persistent=False)
        self.blocks = nn.Sequential(*(DenseBlock(weights, f"dense{i}") for i in range(4)))
        self.head = _linear(weights["fc/weights"], weights["fc/bias"])

    def forward(self, crops: Tensor) -> Tensor:
        """See the class."""
        x = self.blocks((crops - self.mean) / 255)
        points: Tensor = self.head(x.mean((2, 3)))
        return points.reshape(-1, 68, 2)


class FaceResNet(nn.Module):
    """dlib's 29-layer face ResNet: aligned faces f32 [N, 3, 150, 150] -> embeddings f32 [N, 128].

    Two faces of one person are less than about 0.6 apart (Euclidean).
    """

    mean: Tensor
    BLOCKS = (
        *("conv32_1", "conv32_2", "conv32_3"),
        *("conv64_down", "conv64_1", "conv64_2", "conv64_3"),
        *("conv128_down", "conv128_1", "conv128_2"),
        *("conv256_down", "conv256_1", "conv256_2", "conv256_down_out"),
    )

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(FACE_MEAN).view(1, 3, 1, 1), persistent=False)
        self.stem = _scaled_conv(weights, "conv32_down", stride=2)
        self.blocks = nn.Sequential(*(ResidualBlock(weights, name) for name in self.BLOCKS))
        self.head = _linear(weights["fc"])

    def forward(self, faces: Tensor) -> Tensor:
        """See the class."""
        x = F.max_pool2d(F.relu(self.stem((faces - self.mean) / 255)), 3, 2)
        embeddings: Tensor = self.head(self.blocks(x).mean((2, 3)))
        return embeddings


class SeparableConv(nn.Module):
    """A depthwise 3x3 convolution, then a pointwise one with bias.

    Args:
        weights: of the network.
        name: prefix of the layer's weights.
        stride: of the depthwise convolution.
        padding: pixels on every side; None pads one pixel at the right and bottom, as TensorFlow's "same" does for
            stride 2 on even sizes.
    """

    def __init__(self, weights: Weights, name: str, *, stride: int = 1, padding: int | None) -> None:
        super().__init__()
        self.ceil_padding = padding is None
        depthwise = weights[f"{name}/depthwise_filter"]
        channels = depthwise.shape[2]
        self.depthwise = nn.Conv2d(channels, channels, 3, stride, padding or 0, groups=channels, bias=False)
        self.depthwise.weight = _frozen(depthwise.permute(2, 3, 0, 1))
        self.pointwise = _conv(weights[f"{name}/pointwise_filter"], weights[f"{name}/bias"])

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, D, H/stride, W/stride]."""
        if self.ceil_padding:
            x = F.pad(x, (0, 1, 0, 1))
        out: Tensor = self.pointwise(self.depthwise(x))
        return out


class DenseBlock(nn.Module):
    """Halves the size, then three separable convolutions, each fed with the sum of all before it."""

    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        self.entry: nn.Module
        if f"{name}/conv0/filters" in weights:
            conv = _conv(weights[f"{name}/conv0/filters"], weights[f"{name}/conv0/bias"], stride=2)
            self.entry = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), conv)
        else:
            self.entry = SeparableConv(weights, f"{name}/conv0", stride=2, padding=None)
        self.convs = nn.ModuleList(SeparableConv(weights, f"{name}/conv{i}", padding=1) for i in (1, 2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, D, H/2, W/2]."""
        total = F.relu(self.entry(x))
        for conv in self.convs:
            total = total + conv(F.relu(total))
        return F.relu(total)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; blocks with "down" in their name halve the size and may widen."""

    def __init__(self, weights: Weights, name: str) -> None:
        super().__init__()
        self.down = "down" in name
        self.first = _scaled_conv(weights, f"{name}/conv1", stride=2 if self.down else 1, padding=0 if self.down else 1)
        self.second = _scaled_conv(weights, f"{name}/conv2", padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, D, H, W], or half the size."""
        out: Tensor = self.second(F.relu(self.first(x)))
        if not self.down:
            return F.relu(out + x)
        shortcut = F.avg_pool2d(x, 2)
        # The shortcut has fewer channels, the convolution (without padding) may have one row and column less.
        missing = [have - want for have, want in zip(shortcut.shape[2:], out.shape[2:], strict=True)]
        out = F.pad(out, (0, missing[1], 0, missing[0]))
        shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, out.shape[1] - shortcut.shape[1]))
        return F.relu(out + shortcut)


def _frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.contiguous(), requires_grad=False)


def _conv(filters: Tensor, bias: Tensor, *, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    """A convolution with TensorFlow's ``filters`` [h, w, in, out]."""
    side, _, inputs, outputs = filters.shape
    conv = nn.Conv2d(inputs, outputs, side, stride, padding)
    conv.weight, conv.bias = _frozen(filters.permute(3, 2, 0, 1)), _frozen(bias)
    return conv


def _linear(matrix: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear layer with TensorFlow's ``matrix`` [in, out]."""
    inputs, outputs = matrix.shape
    linear = nn.Linear(inputs, outputs, bias=bias is not None)
    linear.weight = _frozen(matrix.T)
    if bias is not None:
        linear.bias = _frozen(bias)
    return linear


def _scaled_conv(weights: Weights, name: str, *, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    """A convolution with the channel scale that follows it folded in."""
    scale, shift = weights[f"{name}/scale/weights"], weights[f"{name}/scale/biases"]
    filters, bias = weights[f"{name}/conv/filters"], weights[f"{name}/conv/bias"]
    return _conv(filters * scale, bias * scale + shift, stride=stride, padding=padding)
