"""fp32 Attention nodes spelled out as products and a softmax.

TensorRT makes one fused kernel of an ONNX Attention or refuses to build, and for fp32 it has no such kernels. Letting
it take an Attention apart itself (IAttention.decomposable) crashes TensorRT-RTX 1.7.1 on a UNet, so it is done here.
fp16 graphs are left as they are: there a fused kernel is what is wanted.
"""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def spell_out_fp32_attention(model: onnx.ModelProto) -> None:
    """Replaces every fp32 Attention of ``model`` by the nodes that it stands for, in place.

    Understands what the export writes: q, k and v of [batch, tokens, heads * width] with the number of heads as an
    attribute, or of [batch, heads, tokens, width]; a mask, additive or boolean; a scale.

    Raises:
        ValueError: an Attention that is causal, capped, cached or grouped.
    """
    graph = model.graph
    if not any(node.op_type == "Attention" for node in graph.node):
        return
    types = _types(model)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        kind = types.get(node.input[0]) if node.op_type == "Attention" else None
        if kind is not None and kind.elem_type == TensorProto.FLOAT:
            nodes.extend(_spelled_out(graph, node, kind.shape.dim[-1].dim_value, _is_boolean(node, types)))
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {v.name: v.type.tensor_type for v in (*inferred.input, *inferred.value_info, *inferred.output)}


def _is_boolean(node: onnx.NodeProto, types: dict[str, onnx.TypeProto.Tensor]) -> bool:
    """Whether an Attention's mask says where to look, instead of what to add."""
    return len(node.input) > 3 and node.input[3] in types and types[node.input[3]].elem_type == TensorProto.BOOL


def _spelled_out(
    graph: onnx.GraphProto, node: onnx.NodeProto, last_axis: int, boolean_mask: bool
) -> list[onnx.NodeProto]:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    heads = int(attributes.get("q_num_heads", 0))
    if (
        len(node.output) > 1
        or len(node.input) > 4
        or any(attributes.get(name) for name in ("is_causal", "softcap", "qk_matmul_output_mode"))
        or heads != int(attributes.get("kv_num_heads", 0))
        or last_axis <= 0
    ):
        raise ValueError(f"{node.name} is an Attention of a kind that the export does not write")
    width = last_axis // (heads or 1)
    made: list[onnx.NodeProto] = []

    def constant(suffix: str, value: np.ndarray) -> str:
        name = f"{node.name}.{suffix}"
        graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def add(op_type: str, inputs: list[str], suffix: str, **options: Any) -> str:
        output = node.output[0] if suffix == "output" else f"{node.name}.{suffix}"
        made.append(helper.make_node(op_type, inputs, [output], name=f"{node.name}.{suffix}", **options))
        return output

    q, k, v = node.input[:3]
    if heads:
        split = constant("heads", np.asarray([0, 0, heads, width], np.int64))
        q, k, v = (
            add("Transpose", [add("Reshape", [x, split], f"{name}_split")], f"{name}_heads", perm=[0, 2, 1, 3])
            for name, x in (("q", q), ("k", k), ("v", v))
        )
    scale = constant("scale", np.asarray(attributes.get("scale", 1 / sqrt(width)), np.float32))
    transposed = add("Transpose", [k], "k_transposed", perm=[0, 1, 3, 2])
    scores = add("MatMul", [add("Mul", [q, scale], "q_scaled"), transposed], "scores")
    if boolean_mask:
        hidden = constant("hidden", np.asarray(np.finfo(np.float32).min, np.float32))
        scores = add("Where", [node.input[3], scores, hidden], "masked")
    elif len(node.input) == 4 and node.input[3]:
        scores = add("Add", [scores, node.input[3]], "masked")
    weights = add("Softmax", [scores], "weights", axis=-1)
    if not heads:
        add("MatMul", [weights, v], "output")
        return made
    merged = constant("merged", np.asarray([0, 0, heads * width], np.int64))
    summed = add("Transpose", [add("MatMul", [weights, v], "summed")], "tokens", perm=[0, 2, 1, 3])
    add("Reshape", [summed, merged], "output")
    return made
