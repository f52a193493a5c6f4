"""ONNX Attention nodes decomposed as products and a softmax, where TensorRT would not compile the operator.

TensorRT makes one fused kernel of an Attention or refuses to build, which is what the loop wants. It is decomposed

* in fp32, for which there are no such kernels, unless it is fp16 that was widened (see
  :mod:`instantrt_engines.widen_attention`);
* with a mask, as in the text encoders: for some shapes TensorRT-RTX 1.7.1 has no kernel then;
* for TensorRT-RTX where several share their query and scale: 1.7.1 crashes on those (segmentation fault), so the one
  with most keys stays;
* everywhere, for a TensorRT that does not know the operator.

Letting TensorRT take an Attention apart itself (``IAttention.decomposable``) crashes TensorRT-RTX 1.7.1 on a UNet. What
is decomposed in fp16 it fuses as well; :mod:`instantrt_engines.checks` looks whether it did.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping
from math import sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Types = Mapping[str, onnx.TypeProto.Tensor]


def decompose_attention(model: onnx.ModelProto, *, everywhere: bool = False, shared_query: bool = False) -> int:
    """Replaces Attention nodes of ``model`` by the nodes that they stand for, in place.

    Understands what the export writes: q, k and v of [batch, tokens, heads * width] with the number of heads as an
    attribute, or of [batch, heads, tokens, width]; a mask, additive or boolean; a scale.

    Args:
        model: external weights need not be loaded.
        everywhere: all of them, not only those that TensorRT would not compile.
        shared_query: whether TensorRT takes several that share a query; if not, all but one of them too.

    Returns:
        how many were replaced.

    Raises:
        ValueError: an Attention to be replaced is causal, capped, cached or grouped.
    """
    attentions = [node for node in model.graph.node if node.op_type == "Attention"]
    if not attentions:
        return 0
    types = tensor_types(model)
    widened = _widened(model.graph, types)
    chosen = {
        n.output[0]
        for n in attentions
        if everywhere or is_masked(n) or (_is(n.input[0], types, TensorProto.FLOAT) and n.input[0] not in widened)
    }
    if not shared_query:
        chosen |= _sharing_a_query(attentions, types)
    decompose_attentions(model, chosen, types)
    return len(chosen)


def decompose_attentions(model: onnx.ModelProto, chosen: Container[str], types: Types) -> None:
    """Replaces the Attention nodes with these outputs by the nodes that they stand for, in place.

    Args:
        model: external weights need not be loaded.
        chosen: outputs of Attention nodes.
        types: of the model's values, see :func:`tensor_types`.

    Raises:
        ValueError: as :func:`decompose_attention`.
    """
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.extend(_decomposed(model.graph, node, types) if node.output[0] in chosen else [node])
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def tensor_types(model: onnx.ModelProto) -> Types:
    """Type and shape of every value of a graph that can be inferred."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    weights = {w.name: helper.make_tensor_type_proto(w.data_type, w.dims).tensor_type for w in inferred.initializer}
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    return weights | {v.name: v.type.tensor_type for v in values}


def _widened(graph: onnx.GraphProto, types: Types) -> set[str]:
    """What is cast from fp16 to fp32."""
    casts = [node for node in graph.node if node.op_type == "Cast"]
    return {
        cast.output[0]
        for cast in casts
        if _is(cast.input[0], types, TensorProto.FLOAT16) and _is(cast.output[0], types, TensorProto.FLOAT)
    }


def _is(name: str, types: Types, element: int) -> bool:
    return name in types and types[name].elem_type == element


def is_masked(node: onnx.NodeProto) -> bool:
    """Whether an Attention has a mask."""
    return len(node.input) > 3 and bool(node.input[3])


def _sharing_a_query(attentions: list[onnx.NodeProto], types: Types) -> set[str]:
    """Outputs of those that share query and scale with one that has more keys."""
    by_query: dict[tuple[str, float | None], list[onnx.NodeProto]] = defaultdict(list)
    for node in attentions:
        by_query[node.input[0], attributes_of(node).get("scale")].append(node)
    shared = set()
    for sharing in by_query.values():
        fewest_first = sorted(sharing, key=lambda node: _axis(types, node.input[1], -2))
        shared |= {node.output[0] for node in fewest_first[:-1]}
    return shared


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes by name."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _axis(types: Types, name: str, axis: int) -> int:
    """One axis of a tensor; 0 if it is not known."""
    axes = types[name].shape.dim if name in types else []
    return int(axes[axis].dim_value) if len(axes) else 0


def _decomposed(graph: onnx.GraphProto, node: onnx.NodeProto, types: Types) -> list[onnx.NodeProto]:
    """softmax(q k^T * scale + mask) v for each head."""
    attributes = attributes_of(node)
    heads, last_axis = int(attributes.get("q_num_heads", 0)), _axis(types, node.input[0], -1)
    if (
        len(node.output) > 1
        or len(node.input) > 4
        or any(attributes.get(name) for name in ("is_causal", "softcap", "qk_matmul_output_mode"))
        or heads != int(attributes.get("kv_num_heads", 0))
        or last_axis <= 0
    ):
        raise ValueError(
            f"{node.name} is an Attention of a kind that the export does not write: {len(node.input)} inputs of which "
            f"the first is {last_axis} wide, {len(node.output)} outputs, {attributes}"
        )
    subgraph = _Subgraph(graph, node, types[node.input[0]].elem_type)
    width = last_axis // (heads or 1)
    q, k, v = node.input[:3]
    if heads:
        split = subgraph.constant("heads", np.asarray([0, 0, heads, width], np.int64))
        q, k, v = (
            subgraph.add(
                "Transpose", [subgraph.add("Reshape", [x, split], f"{n}_split")], f"{n}_heads", perm=[0, 2, 1, 3]
            )
            for n, x in (("q", q), ("k", k), ("v", v))
        )
    scale = subgraph.number("scale", attributes.get("scale", 1 / sqrt(width)))
    transposed = subgraph.add("Transpose", [k], "k_transposed", perm=[0, 1, 3, 2])
    scores = subgraph.add("MatMul", [subgraph.add("Mul", [q, scale], "q_scaled"), transposed], "scores")
    if is_masked(node):
        scores = _masked(subgraph, scores, node.input[3], types)
    weights = subgraph.add("Softmax", [scores], "weights", axis=-1)
    if not heads:
        subgraph.add("MatMul", [weights, v], "output")
        return subgraph.nodes
    merged = subgraph.constant("merged", np.asarray([0, 0, heads * width], np.int64))
    summed = subgraph.add("MatMul", [weights, v], "summed")
    subgraph.add("Reshape", [subgraph.add("Transpose", [summed], "tokens", perm=[0, 2, 1, 3]), merged], "output")
    return subgraph.nodes


def _masked(subgraph: _Subgraph, scores: str, mask: str, types: Types) -> str:
    """A boolean mask says where to look, another one what to add."""
    if mask in types and types[mask].elem_type == TensorProto.BOOL:
        hidden = subgraph.number("hidden", float(np.finfo(subgraph.dtype).min))
        return subgraph.add("Where", [mask, scores, hidden], "masked")
    return subgraph.add("Add", [scores, mask], "masked")


class _Subgraph:
    """The nodes that take an attention's place, named after it."""

    def __init__(self, graph: onnx.GraphProto, node: onnx.NodeProto, element: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.dtype: np.dtype[Any] = helper.tensor_dtype_to_np_dtype(element)
        self._graph, self._output, self._name = graph, node.output[0], node.name or node.output[0]

    def constant(self, suffix: str, value: npt.NDArray[Any]) -> str:
        """A new constant of the graph; returns its name."""
        name = f"{self._name}.{suffix}"
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def number(self, suffix: str, value: float) -> str:
        """A constant of the attention's own element type."""
        return self.constant(suffix, np.asarray(value, self.dtype))

    def add(self, operator: str, inputs: list[str], suffix: str, **options: Any) -> str:
        """One more node; its output is the attention's own for the suffix "output". Returns the output's name."""
        output = self._output if suffix == "output" else f"{self._name}.{suffix}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"{self._name}.{suffix}", **options))
        return output
