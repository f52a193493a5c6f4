"""Face ONNX files as people have them on disk, turned into graphs with the contract's names, dtypes and shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from instantrt.errors import CheckpointError

Role = Literal["detector", "encoder"]
PREFIX = "instantrt_"  # of the names that are added to a graph
SCRFD_STRIDES = (8, 16, 32)
SCRFD_HEADS = {"scores": 1, "boxes": 4, "keypoints": 10}


@dataclass(frozen=True)
class FaceModel:
    """What a face ONNX file of a known name is.

    Args:
        role: what it does.
        kind: key of ``instantrt.prelude`` ``DETECTORS`` or ``TEMPLATES``.
        px: side of its square input.
        embedding_width: numbers per face; 0 for detectors.
    """

    role: Role
    kind: str
    px: int
    embedding_width: int = 0


FACE_MODELS = {
    "scrfd_10g_bnkps.onnx": FaceModel("detector", "scrfd", 640),
    "tiny_face_68.onnx": FaceModel("detector", "tiny68", 224),
    "glintr100.onnx": FaceModel("encoder", "arcface", 112, 512),
    "dlib_resnet_128.onnx": FaceModel("encoder", "dlib", 150, 128),
}
"""By file name; of several in one folder the first of its role is used."""


@dataclass(frozen=True)
class FaceModels:
    """The detector and the encoder of a checkpoint."""

    detector: Path
    detector_kind: str
    encoder: Path
    encoder_kind: str
    detector_px: int
    face_px: int
    embedding_width: int


def find_face_models(folder: Path) -> FaceModels:
    """The face networks in ``folder``, by their file names.

    Raises:
        CheckpointError: a detector or an encoder is missing; names the files that would do.
    """
    detector, encoder = _find(folder, "detector"), _find(folder, "encoder")
    missing = [role for role, path in (("detector", detector), ("encoder", encoder)) if path is None]
    if detector is None or encoder is None:
        wanted = "; ".join(f"face {role}: {' or '.join(_names(role))}" for role in missing)
        found = ", ".join(sorted(p.name for p in folder.glob("*"))) if folder.is_dir() else "no such folder"
        raise CheckpointError(f"{folder} lacks {wanted}", found=found or "an empty folder", hint="add the missing file")
    of_detector, of_encoder = FACE_MODELS[detector.name], FACE_MODELS[encoder.name]
    return FaceModels(
        detector,
        of_detector.kind,
        encoder,
        of_encoder.kind,
        of_detector.px,
        of_encoder.px,
        of_encoder.embedding_width,
    )


def detector_graph(path: Path, kind: str, px: int) -> onnx.ModelProto:
    """The ``face_detector`` network: image u8 [1, px, px, 3] -> the outputs of its kind.

    Args:
        path: an ONNX file.
        kind: "scrfd" (f32 [1, 3, px, px] normalised RGB -> nine heads: scores, boxes, keypoints at strides 8, 16, 32)
            or "tiny68" (already the contract's network).
        px: side of the square input.

    Raises:
        CheckpointError: the file is not such a network.
    """
    model = _load(path)
    if kind == "tiny68":
        return _checked(fold_float16(model), path)
    rows = [2 * (px // stride) ** 2 for stride in SCRFD_STRIDES]
    heads = [
        (f"{head}_{s}", (n, w)) for head, w in SCRFD_HEADS.items() for s, n in zip(SCRFD_STRIDES, rows, strict=True)
    ]
    _expect_outputs(model, len(heads), path)
    _take_pixels(model, "image", (1, px), mean=127.5, std=128.0)
    _expect_sizes(model, [rows * width for _, (rows, width) in heads], path)
    _give(model, heads)
    return _checked(model, path)


def encoder_graph(path: Path, kind: str, px: int, embedding_width: int) -> onnx.ModelProto:
    """The ``face_encoder`` network: faces u8 [n, px, px, 3] -> embedding f32 [n, embedding_width], not normalised.

    Args:
        path: an ONNX file.
        kind: "arcface" (f32 [n, 3, px, px] normalised RGB -> f32 [n, width]) or "dlib" (already the contract's
            network).
        px: side of the aligned crops.
        embedding_width: numbers per face.

    Raises:
        CheckpointError: the file is not such a network.
    """
    model = _load(path)
    if kind == "dlib":
        return _checked(fold_float16(model), path)
    _expect_outputs(model, 1, path)
    _take_pixels(model, "faces", ("n", px), mean=127.5, std=127.5)
    _give(model, [("embedding", ("n", embedding_width))])
    return _checked(model, path)


def fold_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with weights that are stored as float16 and cast to float32 turned into float32 weights, in place."""
    graph = model.graph
    weights = {w.name: w for w in graph.initializer if w.data_type == TensorProto.FLOAT16}
    casts = [n for n in graph.node if n.op_type == "Cast" and n.input[0] in weights]
    for cast in casts:
        values = numpy_helper.to_array(weights[cast.input[0]]).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(values, cast.output[0]))
        graph.node.remove(cast)
    used = {name for node in graph.node for name in node.input}
    for name in weights.keys() - used:
        graph.initializer.remove(weights[name])
    return model


def store_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """The inverse of :func:`fold_float16`, in place: halves the file, and any ONNX runtime still loads it.

    Only the weights of convolutions and linear layers: biases and constants need the precision and are small.
    """
    graph = model.graph
    layers = {node.input[1] for node in graph.node if node.op_type in ("Conv", "Gemm")}
    large = [w for w in graph.initializer if w.data_type == TensorProto.FLOAT and w.name in layers]
    casts = []
    for weight in large:
        stored = f"{weight.name}_float16"
        graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), stored))
        casts.append(helper.make_node("Cast", [stored], [weight.name], to=TensorProto.FLOAT))
        graph.initializer.remove(weight)
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


def _find(folder: Path, role: Role) -> Path | None:
    return next((folder / name for name in _names(role) if (folder / name).is_file()), None)


def _names(role: str) -> list[str]:
    return [name for name, model in FACE_MODELS.items() if model.role == role]


def _load(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path)
    except Exception as error:  # protobuf's and onnx's own exceptions share no base class
        hint = "download it again, or point to the right file"
        raise CheckpointError(f"{path} is not a readable ONNX file", found=str(error)[:200], hint=hint) from None


def _expect_outputs(model: onnx.ModelProto, count: int, path: Path) -> None:
    found = [value.name for value in model.graph.output]
    if len(found) != count:
        what = f"{path} is not the expected face network: it must have {count} outputs"
        raise CheckpointError(what, found=f"{len(found)}: {', '.join(found)}", hint="use the model its name promises")


def _expect_sizes(model: onnx.ModelProto, sizes: Sequence[int], path: Path) -> None:
    """Compare the outputs' sizes, where onnx can infer them: a Reshape to the wrong size fails only when it runs."""
    inferred = onnx.shape_inference.infer_shapes(_without_output_shapes(model))
    for value, size in zip(inferred.graph.output, sizes, strict=True):
        shape = value.type.tensor_type.shape.dim
        if shape and all(dim.HasField("dim_value") for dim in shape) and prod(d.dim_value for d in shape) != size:
            what = f"{path} is not the expected face network: output {value.name} must hold {size} numbers"
            found = " x ".join(str(dim.dim_value) for dim in shape)
            raise CheckpointError(what, found=found, hint="use the model its name promises")


def _without_output_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy, so that inferred shapes are not mixed with what the file declares."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    return copy


def _take_pixels(
    model: onnx.ModelProto, name: str, batch_and_side: tuple[int | str, int], *, mean: float, std: float
) -> None:
    """Replace the network's float NCHW input by u8 NHWC pixels, normalised in the graph."""
    graph = model.graph
    weights = {w.name for w in graph.initializer}
    image = next(value.name for value in graph.input if value.name not in weights)
    batch, side = batch_and_side
    del graph.input[:]  # old files list weights among the inputs
    del graph.value_info[:]  # shapes of intermediate values that may not hold any more
    graph.input.append(helper.make_tensor_value_info(name, TensorProto.UINT8, [batch, side, side, 3]))
    mean_name, std_name = f"{PREFIX}mean", f"{PREFIX}std"
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), constant)
        for value, constant in ((mean, mean_name), (std, std_name))
    )
    steps = [f"{PREFIX}{step}" for step in ("float", "nchw", "centred")]
    nodes = [
        helper.make_node("Cast", [name], [steps[0]], to=TensorProto.FLOAT),  # all that TensorRT does with u8
        helper.make_node("Transpose", [steps[0]], [steps[1]], perm=[0, 3, 1, 2]),
        helper.make_node("Sub", [steps[1], mean_name], [steps[2]]),
        helper.make_node("Div", [steps[2], std_name], [image]),
        *graph.node,
    ]
    del graph.node[:]
    graph.node.extend(nodes)


def _give(model: onnx.ModelProto, outputs: Sequence[tuple[str, tuple[int | str, int]]]) -> None:
    """Name the outputs, in order, and drop a leading batch axis of 1 where the file has one."""
    graph = model.graph
    raw = [value.name for value in graph.output]
    del graph.output[:]
    for source, (name, shape) in zip(raw, outputs, strict=True):
        rows, width = shape
        shape_name = f"{PREFIX}{name}_shape"
        target = np.array([rows if isinstance(rows, int) else -1, width], np.int64)
        graph.initializer.append(numpy_helper.from_array(target, shape_name))
        graph.node.append(helper.make_node("Reshape", [source, shape_name], [name]))
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def _checked(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """``model`` after onnx's full check; the only thing between a wrong file and a bundle."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        hint = "use the model its name promises"
        raise CheckpointError(f"{path} does not fit its contract", found=str(error)[:300], hint=hint) from None
    return model
