"""Constant folding of shape arithmetic: what a graph computes from sizes becomes numbers once the sizes are fixed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

MAX_ELEMENTS = 4096  # larger constants are weights; their arithmetic is the builder's business
MAX_ROUNDS = 16
Array = npt.NDArray[Any]


def fold_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with integer arithmetic on shapes and small constants evaluated, and dead nodes removed.

    Args:
        model: its external weights need not be loaded; they are not touched. Changed in place.

    Returns:
        ``model`` with all types and shapes inferred that can be.
    """
    for _ in range(MAX_ROUNDS):
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
        if not _fold_once(model):
            break
        del model.graph.value_info[:]  # inferred before folding: less exact than what follows from it
    _remove_dead_nodes(model.graph)
    return model


def _fold_once(model: onnx.ModelProto) -> int:
    """Folds every node whose inputs are known now; returns how many."""
    graph = model.graph
    shapes = _static_shapes(graph)
    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer if _is_small(t)}
    opsets = {domain.domain: domain.version for domain in model.opset_import}
    kept, folded = [], 0
    for node in graph.node:
        values = _evaluate(node, known, shapes, opsets)
        if values is None:
            kept.append(node)
            continue
        folded += 1
        known |= values
        graph.initializer.extend(numpy_helper.from_array(v, name) for name, v in values.items())
    del graph.node[:]
    graph.node.extend(kept)
    return folded


def _evaluate(
    node: onnx.NodeProto, known: dict[str, Array], shapes: dict[str, tuple[int, ...]], opsets: dict[str, int]
) -> dict[str, Array] | None:
    """The outputs of a node as small integer or boolean constants, or None."""
    if node.domain or any(a.HasField("g") or a.graphs for a in node.attribute):
        return None
    if node.op_type == "Shape" and node.input[0] in shapes:
        shape = shapes[node.input[0]]
        bounds = {a.name: a.i for a in node.attribute}
        part = shape[bounds.get("start", 0) : bounds.get("end", len(shape))]
        return {node.output[0]: np.array(part, np.int64)}
    inputs = {name: known[name] for name in node.input if name in known}
    if len(inputs) < len({name for name in node.input if name}):
        return None
    if any(array.dtype.kind not in "iub" for array in inputs.values()):
        return None
    outputs = _run(node, inputs, opsets[""])
    small = all(array.size <= MAX_ELEMENTS and array.dtype.kind in "iub" for array in outputs.values())
    return outputs if small else None


def _run(node: onnx.NodeProto, inputs: dict[str, Array], opset: int) -> dict[str, Array]:
    """One node through ONNX's reference implementation."""
    declared = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in inputs.items()
    ]
    outputs = [helper.make_tensor_value_info(name, 0, None) for name in node.output if name]
    single = helper.make_graph([node], "one", declared, outputs)
    evaluator = ReferenceEvaluator(helper.make_model(single, opset_imports=[helper.make_opsetid("", opset)]))
    results: list[Array] = evaluator.run(None, inputs)  # type: ignore[assignment]
    return {info.name: np.asarray(result) for info, result in zip(outputs, results, strict=True)}


def _is_small(tensor: onnx.TensorProto) -> bool:
    inside = tensor.data_location != onnx.TensorProto.EXTERNAL
    return inside and int(np.prod(tensor.dims, dtype=np.int64)) <= MAX_ELEMENTS


def _static_shapes(graph: onnx.GraphProto) -> dict[str, tuple[int, ...]]:
    shapes = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        axes = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(axis.HasField("dim_value") for axis in axes):
            shapes.setdefault(value.name, tuple(axis.dim_value for axis in axes))
    return shapes


def _remove_dead_nodes(graph: onnx.GraphProto) -> None:
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(node.input) | _captured(node)
    del graph.node[:]
    graph.node.extend(reversed(kept))
    used = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(used)


def _captured(node: onnx.NodeProto) -> set[str]:
    """Names that the bodies of a control-flow node may take from outside."""
    bodies = [a.g for a in node.attribute if a.HasField("g")]
    return {name for body in bodies for inner in body.node for name in (*inner.input, *_captured(inner))}
