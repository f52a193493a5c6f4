"""A bundle's ONNX graph made ready for a builder: fixed axes, folded shape arithmetic, pixels cast at the door."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import TensorProto

from instantrt.contracts import NetworkContract
from instantrt_engines.decompose_attention import decompose_attention
from instantrt_engines.fold import fold_shapes
from instantrt_engines.graph import with_fixed_axes


def prepare(
    model: onnx.ModelProto,
    contract: NetworkContract,
    symbols: Mapping[str, int],
    *,
    fold: bool = True,
    attention_operator: bool = True,
    shared_query: bool = False,
) -> onnx.ModelProto:
    """A copy of ``model`` for the builder; computes the same.

    Args:
        model: external weights need not be loaded.
        contract: the network's contract.
        symbols: contract symbols that have one value in all profiles; their axes become numbers.
        fold: evaluate shape arithmetic. Not for plans without weights: they are refitted from the original graph,
            which lacks the constants that folding makes.
        attention_operator: whether the builder knows ``Attention``.
        shared_query: whether it takes several that share a query.
    """
    prepared = with_fixed_axes(model, contract, symbols)
    cast_pixels_first(prepared.graph)
    if fold:
        prepared = fold_shapes(prepared)
    decompose_attention(prepared, everywhere=not attention_operator, shared_query=shared_query)
    return prepared


def cast_pixels_first(graph: onnx.GraphProto) -> None:
    """Turns Cast(Transpose(u8 input)) into Transpose(Cast(u8 input)), in place.

    TensorRT accepts u8 as an input of the network and only a Cast may take it.
    """
    pixels = {value.name for value in graph.input if value.type.tensor_type.elem_type == TensorProto.UINT8}
    for transpose in graph.node:
        if transpose.op_type != "Transpose" or transpose.input[0] not in pixels:
            continue
        users = [node for node in graph.node if transpose.output[0] in node.input]
        if len(users) == 1 and users[0].op_type == "Cast":
            _swap(transpose, users[0])


def _swap(transpose: onnx.NodeProto, cast: onnx.NodeProto) -> None:
    """Exchanges what the two nodes do; their names, places and outer tensors stay."""
    first, second = onnx.NodeProto(), onnx.NodeProto()
    first.CopyFrom(transpose)
    second.CopyFrom(cast)
    for node, source in ((transpose, second), (cast, first)):
        node.op_type = source.op_type
        del node.attribute[:]
        node.attribute.extend(source.attribute)
