"""Face ONNX files as people have them on disk, turned into graphs with the contract's names, dtypes and shapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from instantrt.bundle import COPY_LINKED, linked_data
from instantrt.errors import CheckpointError
from instantrt_export.file_kinds import file_kind
from instantrt_export.weights import unreadable

Role = Literal["detector", "encoder"]
PREFIX = "instantrt_"  # of the names that are added to a graph
SCRFD_STRIDES = (8, 16, 32)
SCRFD_HEADS = {"scores": 1, "boxes": 4, "keypoints": 10}


@dataclass(frozen=True)
class FaceModel:
    """What a face ONNX file of a known name is.

    Args:
        role: what it does.
        kind: key of ``instantrt.conditioning`` ``DETECTORS`` or ``TEMPLATES``.
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


def check_face_files(models: FaceModels) -> None:
    """Look at the files' first bytes.

    Raises:
        CheckpointError: one is a download gone wrong.
    """
    for path in (models.detector, models.encoder):
        if file_kind(path) is not None:
            raise unreadable(path, "ONNX", ValueError())


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
    model = load_face_model(path)
    if kind == "tiny68":
        return _checked(fold_bytes(model), path)
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
    model = load_face_model(path)
    if kind == "dlib":
        return _checked(fold_bytes(model), path)
    _expect_outputs(model, 1, path)
    _take_pixels(model, "faces", ("n", px), mean=127.5, std=127.5)
    _give(model, [("embedding", ("n", embedding_width))])
    return _checked(model, path)


def fold_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The inverse of :func:`store_bytes`, in place: float32 weights, and no arithmetic on them."""
    graph = model.graph
    stored = {w.name: w for w in graph.initializer}
    values: dict[str, npt.NDArray[Any]] = {
        name: numpy_helper.to_array(w) for name, w in stored.items() if w.data_type == TensorProto.UINT8
    }
    nodes = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]].astype(np.float32)
        elif node.op_type in ("Mul", "Add") and node.input[0] in values:
            first, second = values[node.input[0]], numpy_helper.to_array(stored[node.input[1]])
            values[node.output[0]] = first * second if node.op_type == "Mul" else first + second
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [w for w in graph.initializer if w.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(values[name], name) for name in values if name in used)
    return model


def store_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The weights of convolutions and linear layers stored as bytes, in place: a quarter of the file.

    In the graph a weight is ``byte * scale + offset`` with two numbers per output channel. Weights that came from
    bytes lie on such a grid, and only float32's rounding is lost; others move by at most 1/510 of their channel's span.
    Any ONNX runtime loads the file.
    """
    decoders = []
    for weight in _layer_weights(model):
        names = [f"{weight.name}_{part}" for part in ("bytes", "scale", "offset")]
        parts: tuple[npt.NDArray[Any], ...] = _on_grid(numpy_helper.to_array(weight))
        model.graph.initializer.extend(numpy_helper.from_array(part, n) for part, n in zip(parts, names, strict=True))
        model.graph.initializer.remove(weight)
        decoders += [
            helper.make_node("Cast", [names[0]], [f"{weight.name}_levels"], to=TensorProto.FLOAT),
            helper.make_node("Mul", [f"{weight.name}_levels", names[1]], [f"{weight.name}_scaled"]),
            helper.make_node("Add", [f"{weight.name}_scaled", names[2]], [weight.name]),
        ]
    nodes = [*decoders, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _layer_weights(model: onnx.ModelProto) -> list[TensorProto]:
    layers = {node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    return [w for w in model.graph.initializer if w.data_type == TensorProto.FLOAT and w.name in layers]


def _on_grid(
    weight: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Bytes shaped like ``weight`` [O, ...], and each output channel's scale and offset [O, 1, ...]."""
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    offset, scale = rows.min(1), np.array([_spacing(row) for row in rows])
    levels = np.round((rows - offset[:, None]) / scale[:, None])
    column = (len(weight), *(1,) * (weight.ndim - 1))
    return (
        levels.astype(np.uint8).reshape(weight.shape),
        scale.astype(np.float32).reshape(column),
        offset.astype(np.float32).reshape(column),
    )


def _spacing(row: npt.NDArray[np.float64]) -> float:
    """Of the grid of at most 256 values from the smallest to the largest number on which all numbers lie, or nearly."""
    low, span = float(row.min()), float(np.ptp(row))
    if span == 0:
        return 1.0
    gaps = np.diff(np.sort(row))
    smallest = float(gaps[gaps > span / 512].min())  # even smaller ones are float32's rounding
    for parts in range(1, 9):  # the smallest gap that occurs may be several spacings
        count = round(parts * span / smallest)
        levels = (row - low) / span * count
        if count <= 255 and np.abs(levels - np.round(levels)).max() < 2e-3:
            return span / count
    return span / 255


def _find(folder: Path, role: Role) -> Path | None:
    return next((folder / name for name in _names(role) if (folder / name).is_file()), None)


def _names(role: str) -> list[str]:
    return [name for name, model in FACE_MODELS.items() if model.role == role]


def load_face_model(path: Path) -> onnx.ModelProto:
    """The graph in a file, with its weights.

    Raises:
        CheckpointError: the file is something else, or its weights cannot be read.
    """
    try:
        return onnx.load(path)
    except Exception as error:  # protobuf's and onnx's own exceptions share no base class
        link = linked_data(path)
        if link:
            what = f"the weights of {path} cannot be read through a link"
            raise CheckpointError(what, found=link, hint=COPY_LINKED) from None
        raise unreadable(path, "ONNX", error) from None


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
