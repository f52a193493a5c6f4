"""Hand-made ONNX networks that keep their contracts, and bundles of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from doubles.small import DIMS
from instantrt.bundle import Manifest, PictureSizes, write_manifest

HALF, FLOAT, BYTE = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.UINT8
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def weight(name: str, *shape: int, dtype: type = np.float16, seed: int = 0) -> onnx.TensorProto:
    rng = np.random.default_rng([seed, *name.encode()])
    return numpy_helper.from_array((rng.standard_normal(shape) / 8).astype(dtype), name)


def model(nodes, inputs, outputs, weights, opset: int = 20) -> onnx.ModelProto:
    infos = [[helper.make_tensor_value_info(*info) for info in infos] for infos in (inputs, outputs)]
    graph = helper.make_graph(nodes, "network", *infos, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def projection(seed: int = 0) -> onnx.ModelProto:
    """``image_projection`` as one matrix product."""
    tokens, width = DIMS.face_tokens, DIMS.token_width
    nodes = [
        helper.make_node("Cast", ["embedding"], ["half"], to=HALF),
        helper.make_node("MatMul", ["half", "w"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["tokens"]),
    ]
    weights = [
        weight("w", DIMS.face_embedding_width, tokens * width, seed=seed),
        numpy_helper.from_array(np.array([-1, tokens, width]), "shape"),
    ]
    inputs = [("embedding", FLOAT, ["R", DIMS.face_embedding_width])]
    return model(nodes, inputs, [("tokens", HALF, ["R", tokens, width])], weights)


def control(seed: int = 0, pixels_first: bool = False) -> onnx.ModelProto:
    """``control_embedding`` as one convolution; with ``pixels_first`` the u8 pixels are transposed before the cast."""
    order = [("Transpose", {"perm": [0, 3, 1, 2]}), ("Cast", {"to": HALF})]
    first, second = order if pixels_first else order[::-1]
    nodes = [
        helper.make_node(first[0], ["image"], ["a"], **first[1]),
        helper.make_node(second[0], ["a"], ["b"], **second[1]),
        helper.make_node("Conv", ["b", "w"], ["features"], strides=[8, 8]),
    ]
    channels = DIMS.control_channels
    return model(
        nodes,
        [("image", BYTE, ["B", "H", "W", 3])],
        [("features", HALF, ["B", channels, "H/8", "W/8"])],
        [weight("w", channels, 3, 8, 8, seed=seed)],
    )


def write_bundle(folder: Path, networks: dict[str, onnx.ModelProto], **changes) -> Path:
    """A bundle of these networks: fp16, 1-4 slots, 64x64 to 256x192."""
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    for name, proto in networks.items():
        onnx.save(proto, folder / f"onnx/{name}.onnx")
    fields = {
        "dims": DIMS,
        "precision": "fp16",
        "sizes": PictureSizes((128, 128), (64, 64), (256, 192)),
        "slots": (1, 4),
        "guidance_batch": (1, 2),
        "scheduler": SCHEDULER,
        "force_zeros_for_empty_prompt": True,
        "networks": {name: f"onnx/{name}.onnx" for name in networks},
        "made_by": {},
    }
    write_manifest(folder, Manifest(**(fields | changes)))
    return folder
