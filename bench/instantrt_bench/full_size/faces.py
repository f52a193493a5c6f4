"""Face networks of antelopev2's topologies with random weights: SCRFD-10GF with keypoints, and a ResNet for faces."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from instantrt_export.onnx_export import OPSET, quiet_export
from instantrt_nano.weights import fill_with_random

DETECTOR_PX, FACE_PX, EMBEDDING_WIDTH = 640, 112, 512
_BACKBONE_BLOCKS, _BACKBONE_WIDTHS = (3, 4, 2, 3), (56, 88, 88, 224)
_NECK_WIDTH, _HEAD_WIDTH, _HEAD_LAYERS, _ANCHORS = 56, 80, 3, 2
_ENCODER_WIDTHS = (64, 128, 256, 512)


def _conv(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2)


class _Block(nn.Module):
    """Two convolutions around a shortcut, normalisation folded in as in the published files."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = _conv(inputs, outputs, stride), _conv(outputs, outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _conv(inputs, outputs, stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.conv2(torch.relu(self.conv1(x))))


def _stage(inputs: int, outputs: int, blocks: int, stride: int = 2) -> nn.Sequential:
    return nn.Sequential(_Block(inputs, outputs, stride), *(_Block(outputs, outputs, 1) for _ in range(blocks - 1)))


class Detector(nn.Module):
    """SCRFD-10GF (Guo et al. 2021): backbone, path-aggregation neck, heads of three layers shared by no stride."""

    def __init__(self) -> None:
        super().__init__()
        widths = _BACKBONE_WIDTHS
        self.stem = nn.Sequential(_conv(3, 28, 2), nn.ReLU(), _conv(28, 28), nn.ReLU(), _conv(28, 56), nn.ReLU())
        stages = zip((56, *widths[:-1]), widths, _BACKBONE_BLOCKS, (1, 2, 2, 2), strict=True)
        self.stages = nn.ModuleList(_stage(*sizes) for sizes in stages)
        self.lateral = nn.ModuleList(_conv(width, _NECK_WIDTH, size=1) for width in widths[1:])
        self.smooth = nn.ModuleList(_conv(_NECK_WIDTH, _NECK_WIDTH) for _ in range(3))
        self.down = nn.ModuleList(_conv(_NECK_WIDTH, _NECK_WIDTH, 2) for _ in range(2))
        self.towers = nn.ModuleList(self._tower() for _ in range(3))
        self.heads = nn.ModuleList(
            nn.ModuleList(_conv(_HEAD_WIDTH, _ANCHORS * n) for n in (1, 4, 10)) for _ in range(3)
        )

    @staticmethod
    def _tower() -> nn.Sequential:
        widths = (_NECK_WIDTH, *(_HEAD_WIDTH,) * _HEAD_LAYERS)
        layers = [layer for i, o in pairwise(widths) for layer in (_conv(i, o), nn.ReLU())]
        return nn.Sequential(*layers)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Picture f32 [1, 3, 640, 640] to scores, boxes and keypoints at strides 8, 16, 32, one row per anchor."""
        x = nn.functional.max_pool2d(self.stem(image), 2)
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        merged = [lateral(level) for lateral, level in zip(self.lateral, levels[1:], strict=True)]
        for i in (1, 0):
            merged[i] = merged[i] + nn.functional.interpolate(merged[i + 1], scale_factor=2.0)
        paths = [smooth(level) for smooth, level in zip(self.smooth, merged, strict=True)]
        for i in (1, 2):
            paths[i] = paths[i] + self.down[i - 1](paths[i - 1])
        features = [tower(level) for tower, level in zip(self.towers, paths, strict=True)]
        rows = [
            [rows_per_anchor(head(x)) for head in cast(nn.ModuleList, heads)]
            for heads, x in zip(self.heads, features, strict=True)
        ]
        return (*(torch.sigmoid(r[0]) for r in rows), *(r[1] for r in rows), *(r[2] for r in rows))


def rows_per_anchor(x: Tensor) -> Tensor:
    """[1, anchors * width, h, w] to [h * w * anchors, width]."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1] // _ANCHORS)


class Encoder(nn.Module):
    """A ResNet for faces (Deng et al. 2019), 100 layers with blocks (3, 13, 30, 3).

    Args:
        blocks: residual blocks per stage.
    """

    def __init__(self, blocks: tuple[int, int, int, int]) -> None:
        super().__init__()
        inputs = (_ENCODER_WIDTHS[0], *_ENCODER_WIDTHS[:-1])
        self.stem = _conv(3, _ENCODER_WIDTHS[0])
        self.stages = nn.Sequential(*(_stage(i, o, n) for i, o, n in zip(inputs, _ENCODER_WIDTHS, blocks, strict=True)))
        self.head = nn.Linear(_ENCODER_WIDTHS[-1] * (FACE_PX // 16) ** 2, EMBEDDING_WIDTH)

    def forward(self, faces: Tensor) -> Tensor:
        """Crops f32 [n, 3, 112, 112] to embeddings [n, 512]."""
        embedding: Tensor = self.head(self.stages(torch.relu(self.stem(faces))).flatten(1))
        return embedding


def write_faces(folder: Path, blocks: tuple[int, int, int, int], seed: int) -> None:
    """Writes ``scrfd_10g_bnkps.onnx`` and ``glintr100.onnx``."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(Detector(), torch.zeros(1, 3, DETECTOR_PX, DETECTOR_PX), folder / "scrfd_10g_bnkps.onnx", seed)
    _write(Encoder(blocks), torch.zeros(2, 3, FACE_PX, FACE_PX), folder / "glintr100.onnx", seed)


def _write(module: nn.Module, example: Tensor, path: Path, seed: int) -> None:
    fill_with_random(module, path.stem, seed)
    dynamic = ({0: torch.export.Dim("n")},) if len(example) > 1 else None
    with quiet_export():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["input.1"],  # as in the published files
            dynamic_shapes=dynamic,
            verbose=False,
        )
    assert program is not None
    program.save(path)
