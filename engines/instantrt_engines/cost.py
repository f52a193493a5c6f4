"""What one call of a network costs, read off its ONNX graph: parameters, floating-point operations, bytes moved."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import onnx

from instantrt_engines.graph import ShapedGraph, Tensor


@dataclass(frozen=True)
class Cost:
    """One call at given sizes.

    Args:
        parameters: elements of all weights.
        weight_bytes: bytes of all weights.
        flops: floating-point operations of matrix products and convolutions; a multiply-add counts as two.
        bytes: the least that must move: weights read once, inputs read, outputs written.
    """

    parameters: int
    weight_bytes: int
    flops: int
    bytes: int


def cost_of(graph: ShapedGraph) -> Cost:
    """The cost of a graph at the sizes that it was shaped for."""
    weights = list(graph.weights.values())
    weight_bytes = sum(tensor.bytes for tensor in weights)
    edges = (value.name for value in (*graph.graph.input, *graph.graph.output) if value.name not in graph.weights)
    return Cost(
        parameters=sum(tensor.elements for tensor in weights),
        weight_bytes=weight_bytes,
        flops=sum(node_flops(node, graph) for node in graph.graph.node),
        bytes=weight_bytes + sum(tensor.bytes for tensor in graph.tensors(edges)),
    )


def node_flops(node: onnx.NodeProto, graph: ShapedGraph) -> int:
    """Floating-point operations of one node; 0 for everything but products and convolutions."""
    count = _COUNTERS.get(node.op_type)
    if count is None:
        return 0
    inputs = [graph.values[name] for name in node.input if name]
    return count(node, inputs, graph.values[node.output[0]])


def _matmul(_node: onnx.NodeProto, inputs: list[Tensor], output: Tensor) -> int:
    return 2 * output.elements * (inputs[0].shape[-1] or 1)


def _gemm(node: onnx.NodeProto, inputs: list[Tensor], output: Tensor) -> int:
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return 2 * output.elements * (inputs[0].shape[0 if transposed else 1] or 1)


def _convolution(_node: onnx.NodeProto, inputs: list[Tensor], output: Tensor) -> int:
    # weights [out, in / groups, kernel...]: so many products make one output element
    return 2 * output.elements * prod(axis or 1 for axis in inputs[1].shape[1:])


def _transposed_convolution(_node: onnx.NodeProto, inputs: list[Tensor], _output: Tensor) -> int:
    return 2 * inputs[0].elements * prod(axis or 1 for axis in inputs[1].shape[1:])


def _attention(_node: onnx.NodeProto, inputs: list[Tensor], output: Tensor) -> int:
    """Opset-23 ``Attention`` on [batch, heads, tokens, width]: two products, q k and scores v."""
    query, key = inputs[0], inputs[1]
    keys = key.shape[-2] or 1
    return 2 * keys * (query.elements + output.elements)


_COUNTERS = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _convolution,
    "ConvTranspose": _transposed_convolution,
    "Attention": _attention,
}
