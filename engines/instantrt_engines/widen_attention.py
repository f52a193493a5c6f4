"""Fused attention that adds up in fp32: casts around the operator, as TensorRT's documentation asks for it.

TensorRT compiles an fp16 ``Attention`` with sums in fp16. From 11.3 on, queries, keys and values that are cast to fp32
just before it make the same fused kernel on fp16 numbers, with sums in fp32 (release notes of 11.3.0, "FP32
accumulation for FP16 fused attention"). It is more exact and may be slower.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from instantrt_engines.decompose_attention import tensor_types


def widen_attention(model: onnx.ModelProto) -> int:
    """Puts casts to fp32 before every fp16 Attention of ``model`` and one back after it, in place.

    Attentions of one query keep one cast of it, so that what is done for shared queries still sees that they share it.

    Args:
        model: external weights need not be loaded.

    Returns:
        how many were widened.
    """
    halves = {name for name, kind in tensor_types(model).items() if kind.elem_type == TensorProto.FLOAT16}
    casts: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    widened = 0
    for node in model.graph.node:
        if node.op_type != "Attention" or node.input[0] not in halves:
            nodes.append(node)
            continue
        widened += 1
        for index, name in enumerate(node.input):
            if name not in halves:
                continue  # a boolean mask, or an input that is left out
            if name not in casts:
                casts[name] = f"{name}.fp32"
                nodes.append(_cast(name, casts[name], TensorProto.FLOAT))
            node.input[index] = casts[name]
        output = node.output[0]
        node.output[0] = f"{output}.fp32"
        nodes += [node, _cast(node.output[0], output, TensorProto.FLOAT16)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]  # types of what is computed inside, which are inferred again when they are asked for
    return widened


def _cast(source: str, result: str, element: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [result], name=f"{result}.cast", to=element)
