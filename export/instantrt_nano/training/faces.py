"""The committed face networks as training uses them: both in ONNX Runtime, and the encoder in torch for gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from torch import Tensor

from instantrt.conditioning.alignment import TEMPLATES, aligned_crop, similarity
from instantrt.conditioning.detectors import DETECTORS, Candidates
from instantrt_export.faces.graphs import FACE_MODELS, fold_bytes
from instantrt_nano.faces.face_api import FACE_PX, FaceResNet

Picture = npt.NDArray[np.uint8]
DETECTOR, ENCODER = "tiny_face_68.onnx", "dlib_resnet_128.onnx"
TEMPLATE = TEMPLATES["dlib"]


class Faces:
    """Detector and encoder, used exactly as the runtime uses them.

    Args:
        folder: holds the ONNX files.
        threads: CPU threads that one network may use.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._detector, self._encoder = (
            onnxruntime.InferenceSession(str(folder / name), options, providers=["CPUExecutionProvider"])
            for name in (DETECTOR, ENCODER)
        )

    def detect(self, picture: Picture) -> Candidates:
        """The faces of u8 RGB ``picture`` [H, W, 3], best score first."""
        names = [output.name for output in self._detector.get_outputs()]
        model = FACE_MODELS[DETECTOR]
        return DETECTORS[model.kind].detect(
            lambda inputs: dict(zip(names, self._detector.run(None, dict(inputs)), strict=True)), picture, model.px
        )

    def embed(self, picture: Picture, keypoints: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """The embedding f32 [128] of the face with ``keypoints`` [5, 2]."""
        crop = aligned_crop(picture, np.asarray(keypoints, np.float32), TEMPLATE)
        return np.asarray(self._encoder.run(None, {"faces": crop[None]})[0][0], np.float32)


def torch_encoder(folder: Path) -> FaceResNet:
    """The encoder of ``folder`` as a frozen torch module, for gradients with respect to its input."""
    model = fold_bytes(onnx.load(folder / ENCODER))
    stored = {w.name: torch.from_numpy(numpy_helper.to_array(w).copy()) for w in model.graph.initializer}
    layers = {"stem": "conv32_down"}
    for i, name in enumerate(FaceResNet.BLOCKS):
        layers |= {f"blocks.{i}.first": f"{name}/conv1", f"blocks.{i}.second": f"{name}/conv2"}
    weights = {"fc": stored["resnet.head.weight"].T}
    for layer, name in layers.items():
        filters, bias = stored[f"resnet.{layer}.weight"], stored[f"resnet.{layer}.bias"]
        weights[f"{name}/conv/filters"] = filters.permute(2, 3, 1, 0)
        weights[f"{name}/conv/bias"] = bias
        weights[f"{name}/scale/weights"] = torch.ones_like(bias)  # folded into the filters when they were exported
        weights[f"{name}/scale/biases"] = torch.zeros_like(bias)
    return FaceResNet(weights).eval().requires_grad_(False)


def crop_transform(keypoints: npt.NDArray[np.floating], picture_px: int) -> Tensor:
    """The matrix f32 [2, 3] with which affine_grid cuts the encoder's aligned face out of a square picture."""
    matrix = similarity(np.array(TEMPLATE.points), keypoints)  # crop pixels to picture pixels
    turn, shift = matrix[:, :2], matrix[:, 2]
    centre = np.full(2, FACE_PX / 2 - 0.5)
    theta = np.concatenate(
        [turn * FACE_PX / picture_px, (2 * (turn @ centre + shift + 0.5) / picture_px - 1)[:, None]], axis=1
    )
    return torch.from_numpy(theta).float()
