"""Two attentions whose outputs are added, spelled so that TensorRT-RTX can compile them.

TensorRT-RTX 1.7.1 crashes (segmentation fault) on two ``Attention`` operators whose outputs meet in an addition, as
those to text and to face do. One of the two is spelled as matrix products and a softmax instead; it fuses those too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

PASSES = ("Mul", "Reshape", "Transpose", "Identity", "Cast")
HEADS = {"q_num_heads", "kv_num_heads"}


def spell_out_summed_attention(graph: onnx.GraphProto) -> int:
    """Rewrites, in place, the one with fewer keys of every two attentions that are added.

    Args:
        graph: with the shapes of intermediate tensors where they are known.

    Returns:
        how many were rewritten.
    """
    makers = {name: node for node in graph.node for name in node.output}
    chosen: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        meeting = [_attention_behind(name, makers) for name in node.input]
        pair = [attention for attention in meeting if attention is not None and _is_plain(attention)]
        if len(pair) == 2 and pair[0] is not pair[1]:
            smaller = min(reversed(pair), key=lambda attention: _keys(attention, graph))
            chosen[smaller.output[0]] = smaller
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.extend(_spelled_out(node, graph) if node.output and node.output[0] in chosen else [node])
    del graph.node[:]
    graph.node.extend(nodes)
    return len(chosen)


def _attention_behind(name: str, makers: dict[str, onnx.NodeProto]) -> onnx.NodeProto | None:
    """The attention whose output this tensor is, scaled or rearranged at most."""
    node = makers.get(name)
    if node is None or node.op_type == "Attention":
        return node
    if node.op_type not in PASSES:
        return None
    return next((found for i in node.input if (found := _attention_behind(i, makers)) is not None), None)


def _is_plain(node: onnx.NodeProto) -> bool:
    """Three-dimensional query, key and value, and nothing else."""
    return len([i for i in node.input if i]) == 3 and {a.name for a in node.attribute} == HEADS


def _keys(node: onnx.NodeProto, graph: onnx.GraphProto) -> int:
    return _axis(graph, node.input[1], 1) or 0


def _axis(graph: onnx.GraphProto, name: str, axis: int) -> int:
    """One axis of a tensor; 0 if it is not known."""
    for value in (*graph.value_info, *graph.input):
        if value.name == name and len(value.type.tensor_type.shape.dim) > axis:
            return int(value.type.tensor_type.shape.dim[axis].dim_value)
    return 0


def _spelled_out(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """softmax(q k^T / sqrt(width)) v for each head, from [N, tokens, heads * width] to the same."""
    heads = next(a.i for a in node.attribute if a.name == "q_num_heads")
    width = _axis(graph, node.input[0], 2) // heads
    if width == 0:
        return [node]
    own = node.output[0]

    def constant(name: str, array: npt.NDArray[Any]) -> str:
        graph.initializer.append(numpy_helper.from_array(array, f"{own}/{name}"))
        return f"{own}/{name}"

    def step(operator: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
        output = own if output == "" else f"{own}/{output}"
        name = f"{node.name}/{operator}_{output.rpartition('/')[2]}"
        return helper.make_node(operator, inputs, [output], name=name, **attributes)

    split = constant("split", np.array([0, 0, heads, width], np.int64))
    merge = constant("merge", np.array([0, 0, heads * width], np.int64))
    element = next(v.type.tensor_type.elem_type for v in graph.value_info if v.name == node.input[0])
    scale = constant("scale", np.array(width**-0.5, helper.tensor_dtype_to_np_dtype(element)))
    query, key, value = node.input
    return [
        step("Mul", [query, scale], "scaled"),
        step("Reshape", [f"{own}/scaled", split], "q"),
        step("Transpose", [f"{own}/q"], "q_heads", perm=[0, 2, 1, 3]),
        step("Reshape", [key, split], "k"),
        step("Transpose", [f"{own}/k"], "k_heads", perm=[0, 2, 3, 1]),
        step("Reshape", [value, split], "v"),
        step("Transpose", [f"{own}/v"], "v_heads", perm=[0, 2, 1, 3]),
        step("MatMul", [f"{own}/q_heads", f"{own}/k_heads"], "scores"),
        step("Softmax", [f"{own}/scores"], "weights", axis=-1),
        step("MatMul", [f"{own}/weights", f"{own}/v_heads"], "mixed"),
        step("Transpose", [f"{own}/mixed"], "rows", perm=[0, 2, 1, 3]),
        step("Reshape", [f"{own}/rows", merge], ""),
    ]
