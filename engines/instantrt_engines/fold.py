"""Constant folding of shape arithmetic: what a graph computes from sizes becomes numbers once the sizes are fixed.

onnx-graphsurgeon does it, as it does for Polygraphy. Polygraphy's ``FoldConstants`` is not used: when an evaluation
fails, it logs that and returns the graph unfolded (0.53.6). Two things are kept from onnx-graphsurgeon (0.6.1) that it
gets wrong: ``Shape`` with ``start`` or ``end``, as torch's exporter writes it, which it folds to all axes, and weights
in external files, from which it would evaluate without loading them.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime  # noqa: F401 - what onnx-graphsurgeon evaluates with; a missing one is to be found before any work
from onnx import TensorProto, helper
from onnx.shape_inference import infer_shapes

MAX_BYTES = 4096  # larger constants are weights; their arithmetic is the builder's business


def fold_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with arithmetic on shapes and small constants evaluated, and dead nodes removed.

    Args:
        model: its external weights need not be loaded; they are not touched. Changed in place.

    Returns:
        a new model with all types and shapes inferred that can be.
    """
    weights = _take_weights(model.graph)
    model = infer_shapes(model, data_prop=True)
    nodes = None
    while nodes != len(model.graph.node):
        nodes = len(model.graph.node)
        model = _folded_once(model)
    _give_weights_back(model.graph, weights)
    return model


def _folded_once(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = gs.import_onnx(model)
    _fold_shape_nodes(graph)
    with gs.logger.G_LOGGER.suppress():  # it prints to standard output
        graph.fold_constants(fold_shapes=False, error_ok=False, size_threshold=MAX_BYTES).cleanup()
        folded = gs.export_onnx(graph, do_type_check=False)
    return infer_shapes(folded, data_prop=True)


def _fold_shape_nodes(graph: gs.Graph) -> None:
    """Makes constants of the outputs of ``Shape`` nodes whose input has known sizes."""
    for node in graph.nodes:
        sizes = node.inputs[0].shape if node.op == "Shape" else None
        if sizes is not None and all(isinstance(size, int) for size in sizes):
            (output,) = node.outputs
            node.outputs.clear()
            output.to_constant(np.array(sizes[node.attrs.get("start", 0) : node.attrs.get("end")], np.int64))


def _take_weights(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Makes inputs of the weights, so that nothing is evaluated from them and no step copies them; returns them."""
    weights = [t for t in graph.initializer if t.data_location == TensorProto.EXTERNAL or t.ByteSize() > MAX_BYTES]
    names = {tensor.name for tensor in weights}
    constants = [tensor for tensor in graph.initializer if tensor.name not in names]
    del graph.initializer[:]
    graph.initializer.extend(constants)
    graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in weights)
    return weights


def _give_weights_back(graph: onnx.GraphProto, weights: list[onnx.TensorProto]) -> None:
    """Makes the last inputs the weights that they were."""
    del graph.input[len(graph.input) - len(weights) :]
    graph.initializer.extend(weights)
