"""An Attention decomposed computes what ONNX Runtime's Attention computes; others stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from instantrt_engines.decompose_attention import decompose_attention
from randomness import fresh_rng


def attention(shapes: list[Any], attributes: dict[str, Any], kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    names = ["q", "k", "v", "mask"][: len(shapes)]
    inputs = [helper.make_tensor_value_info(n, kind, s) for n, s in zip(names, shapes, strict=True)]
    node = helper.make_node("Attention", names, ["y"], name="attention", **attributes)
    output = helper.make_tensor_value_info("y", kind, [None] * len(shapes[0]))
    graph = helper.make_graph([node], "g", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def run(model: onnx.ModelProto, arrays: list[np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: a for i, a in zip(session.get_inputs(), arrays, strict=True)})[0]


@pytest.mark.parametrize("heads", [1, 2, 3])
@pytest.mark.parametrize("attributes", [{}, {"scale": 0.3}])
def test_split_heads(heads: int, attributes: dict[str, Any]) -> None:
    attributes = {"q_num_heads": heads, "kv_num_heads": heads, **attributes}
    model = attention([["b", "t", heads * 8], ["b", "s", heads * 8], ["b", "s", heads * 8]], attributes)
    arrays = [fresh_rng().standard_normal((2, n, heads * 8)).astype(np.float32) for n in (5, 7, 7)]
    expected = run(model, arrays)
    decompose_attention(model)
    assert "Attention" not in {node.op_type for node in model.graph.node}
    np.testing.assert_allclose(run(model, arrays), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", [None, TensorProto.FLOAT, TensorProto.BOOL])
def test_heads_as_an_axis(mask: int | None) -> None:
    shapes: list[Any] = [["b", 3, 6, 8], ["b", 3, 6, 8], ["b", 3, 6, 8], ["b", 1, 6, 6]][: 3 + (mask is not None)]
    model = attention(shapes, {"scale": 0.2})
    arrays = [fresh_rng().standard_normal([2 if d == "b" else d for d in shape]).astype(np.float32) for shape in shapes]
    if mask == TensorProto.BOOL:
        model.graph.input[3].type.tensor_type.elem_type = mask
        arrays[3] = (arrays[3] > 0) | np.eye(6, dtype=bool)
    expected = run(model, arrays)
    decompose_attention(model)
    np.testing.assert_allclose(run(model, arrays), expected, rtol=1e-5, atol=1e-6)


def test_fp16_is_left_to_the_fused_kernels() -> None:
    shape = [2, 5, 16]
    model = attention([shape] * 3, {"q_num_heads": 2, "kv_num_heads": 2}, TensorProto.FLOAT16)
    before = model.SerializeToString()
    decompose_attention(model)
    assert model.SerializeToString() == before


@pytest.mark.parametrize("attributes", [{"is_causal": 1}, {"softcap": 2.0}, {"q_num_heads": 4, "kv_num_heads": 2}])
def test_kinds_that_the_export_does_not_write_are_refused(attributes: dict[str, Any]) -> None:
    heads = {"q_num_heads": 2, "kv_num_heads": 2, **attributes}
    with pytest.raises(ValueError, match="attention is an Attention of a kind"):
        decompose_attention(attention([[2, 5, 16]] * 3, heads))
