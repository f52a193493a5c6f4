"""A network's ONNX graph rewritten to operators and versions that ONNX Runtime has CUDA kernels for.

| as exported                         | rewritten                        | why                                         |
|-------------------------------------|----------------------------------|---------------------------------------------|
| Attention, 3-D, no mask (opset 23)  | com.microsoft.MultiHeadAttention | the opset of below has no Attention         |
| Attention, masked or 4-D (opset 23) | products and a softmax           | likewise                                    |
| InstanceNormalization (opset 22)    | the same one of opset 21         | its kernel is that of opsets 6 to 21        |
| ArgMax of integers                  | of the same numbers in fp32      | its kernel takes floats; tokens stay exact  |

What an operator means has not changed between opsets 21 and 23, only which types it takes, so the rest is relabelled.
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, defs, helper

from instantrt_engines.decompose_attention import (
    Types,
    attributes_of,
    decompose_attentions,
    is_masked,
    tensor_types,
)

MICROSOFT = "com.microsoft"
OPSET = 21  # the last one whose InstanceNormalization has a kernel


def rewrite_for_cuda(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` that computes the same. External weights stay where they are and need not be loaded.

    Raises:
        ValueError: a node means something else in the opset of the copy, or is not known there.
    """
    rewritten = onnx.ModelProto()
    rewritten.CopyFrom(model)
    types = tensor_types(model)
    attentions = [node for node in rewritten.graph.node if node.op_type == "Attention"]
    decomposed = {n.output[0] for n in attentions if is_masked(n) or not attributes_of(n).get("q_num_heads")}
    decompose_attentions(rewritten, decomposed, types)
    for node in rewritten.graph.node:
        if node.op_type == "Attention":
            _make_multi_head(node)
    _find_greatest_in_fp32(rewritten, types)
    _relabel(rewritten)
    return rewritten


def _make_multi_head(node: onnx.NodeProto) -> None:
    """An unmasked Attention of [batch, tokens, heads * width] as the operator of ONNX Runtime's own, in place."""
    attributes = attributes_of(node)
    heads, scale = int(attributes["q_num_heads"]), attributes.get("scale")
    if heads != attributes["kv_num_heads"] or len(node.output) > 1:
        raise ValueError(f"{node.name} is an Attention of a kind that the export does not write: {attributes}")
    new = helper.make_node("MultiHeadAttention", node.input, node.output, node.name, domain=MICROSOFT, num_heads=heads)
    if scale is not None:
        new.attribute.append(helper.make_attribute("scale", scale))
    node.CopyFrom(new)


def _find_greatest_in_fp32(model: onnx.ModelProto, types: Types) -> None:
    """Casts what integer ArgMax nodes look at: token ids and flags, far below the 2^24 up to which fp32 is exact."""
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == "ArgMax" and types[node.input[0]].elem_type in (TensorProto.INT32, TensorProto.INT64):
            cast = f"{node.output[0]}.as_fp32"
            nodes.append(helper.make_node("Cast", [node.input[0]], [cast], name=cast, to=TensorProto.FLOAT))
            node.input[0] = cast
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _relabel(model: onnx.ModelProto) -> None:
    version = min(OPSET, next(opset.version for opset in model.opset_import if opset.domain == ""))
    for node in model.graph.node:
        if not node.domain:
            _check_known(node, version)
    del model.opset_import[:]
    model.opset_import.extend([helper.make_opsetid("", version), helper.make_opsetid(MICROSOFT, 1)])


def _check_known(node: onnx.NodeProto, version: int) -> None:
    if not defs.has(node.op_type, version, ""):
        raise ValueError(f"opset {version} has no {node.op_type}, which {node.name} is")
    schema = defs.get_schema(node.op_type, version, "")
    unknown = {a.name for a in node.attribute} - set(schema.attributes)
    if unknown or not schema.min_input <= len(node.input) <= schema.max_input:
        raise ValueError(f"{node.name} is no {node.op_type} of opset {version}: {unknown}, {len(node.input)} inputs")
