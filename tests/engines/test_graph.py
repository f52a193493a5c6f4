"""Graphs are folded, fixed and counted without changing what they compute."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from doubles.graphs import FLOAT, control, model, projection, weight
from doubles.small import DIMS
from instantrt.contracts import NetworkContract, TensorSpec, network_contracts
from instantrt_engines.cost import cost_of
from instantrt_engines.fold import fold_shapes
from instantrt_engines.graph import ShapedGraph, with_fixed_axes
from instantrt_engines.prepare import cast_pixels_first, prepare
from randomness import fresh_rng

CONTRACTS = network_contracts(DIMS)
PICTURE = {"B": 2, "H": 128, "W": 64}
ANY = NetworkContract("any", "denoise", (TensorSpec("x", "float32", ("B", 6, 4)),), (TensorSpec("y", "float32", ()),))


def run(proto: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def shape_arithmetic() -> onnx.ModelProto:
    """Splits x [B, 6, 4] into [B*6, 2, 2] by arithmetic on its shape, as the exporter does with free sizes."""
    nodes = [
        helper.make_node("Shape", ["x"], ["batch"], start=0, end=1),
        helper.make_node("Shape", ["x"], ["all"]),
        helper.make_node("Gather", ["all", "one"], ["rows"]),
        helper.make_node("Mul", ["batch", "rows"], ["both"]),
        helper.make_node("Range", ["zero", "two", "step"], ["range"]),
        helper.make_node("ReduceSum", ["range"], ["unused"], keepdims=0),
        helper.make_node("Concat", ["both", "pair"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = {"one": [1], "pair": [2, 2], "zero": 0, "two": 2, "step": 1}
    weights = [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in constants.items()]
    return model(nodes, [("x", FLOAT, ["B", 6, 4])], [("y", FLOAT, None)], weights)


def test_with_free_sizes_nothing_that_depends_on_them_is_folded() -> None:
    folded = fold_shapes(shape_arithmetic())
    assert {"Shape", "Reshape"} <= {node.op_type for node in folded.graph.node}
    assert "Range" not in {node.op_type for node in folded.graph.node}


@pytest.mark.parametrize("batch", [1, 3])
def test_with_fixed_sizes_shape_arithmetic_becomes_numbers(batch: int) -> None:
    original = shape_arithmetic()
    folded = fold_shapes(with_fixed_axes(original, ANY, {"B": batch}))
    assert [node.op_type for node in folded.graph.node] == ["Reshape"]
    assert {t.name for t in folded.graph.initializer} == {"target"}
    x = fresh_rng().standard_normal((batch, 6, 4)).astype(np.float32)
    np.testing.assert_array_equal(run(folded, x=x)[0], run(original, x=x)[0])


def test_the_original_is_left_alone() -> None:
    original = control()
    before = original.SerializeToString()
    prepare(original, CONTRACTS["control_embedding"], {"B": 1, "H": 64, "W": 64})
    assert original.SerializeToString() == before


def test_onnx_graphsurgeon_still_folds_part_of_a_shape_to_all_of_it() -> None:
    """When this fails, it has been mended and can fold ``Shape`` nodes too."""
    fixed = with_fixed_axes(shape_arithmetic(), ANY, {"B": 3})
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(fixed)).fold_constants()
    assert graph.tensors()["batch"].values.tolist() == [3, 6, 4]


def test_large_constants_are_not_folded() -> None:
    nodes = [helper.make_node("Expand", ["seed", "shape"], ["big"]), helper.make_node("Add", ["x", "big"], ["y"])]
    weights = [
        numpy_helper.from_array(np.ones(1, np.float32), "seed"),
        numpy_helper.from_array(np.array([100, 100]), "shape"),
    ]
    proto = model(nodes, [("x", FLOAT, [100, 100])], [("y", FLOAT, [100, 100])], weights)
    assert [node.op_type for node in fold_shapes(proto).graph.node] == ["Expand", "Add"]


def test_weights_in_external_files_stay_there_and_need_not_exist() -> None:
    """With a node that could be folded if its weight were there, as in the text encoders."""
    proto = shape_arithmetic()
    proto.graph.node.extend(
        [helper.make_node("Neg", ["far"], ["negative"]), helper.make_node("Add", ["y", "negative"], ["z"])]
    )
    proto.graph.output[0].name = "z"
    far = weight("far", 2, 2, dtype=np.float32)
    onnx.external_data_helper.set_external_data(far, "nowhere.onnx.data")
    far.ClearField("raw_data")
    proto.graph.initializer.append(far)
    folded = fold_shapes(with_fixed_axes(proto, replace(ANY, outputs=(TensorSpec("z", "float32", ()),)), {"B": 1}))
    assert [node.op_type for node in folded.graph.node] == ["Reshape", "Neg", "Add"]
    assert [value.name for value in folded.graph.input] == ["x"]
    assert far in folded.graph.initializer


def test_arithmetic_that_fails_is_an_error_and_not_left_unfolded() -> None:
    proto = shape_arithmetic()
    numbers = {tensor.name: tensor for tensor in proto.graph.initializer}
    numbers["one"].CopyFrom(numpy_helper.from_array(np.array([7]), "one"))  # an axis that x lacks
    with pytest.raises(Exception, match="indices element out of data bounds"):
        fold_shapes(with_fixed_axes(proto, ANY, {"B": 1}))


def test_folding_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    proto = shape_arithmetic()
    for node in (proto.graph.node[0], proto.graph.node[-1]):
        node.name = "same"  # which onnx-graphsurgeon would warn of, on standard output
    fold_shapes(proto)
    assert capfd.readouterr() == ("", "")


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(1, 3), width=st.integers(1, 3), height=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_a_prepared_graph_computes_the_same(batch: int, width: int, height: int, seed: int) -> None:
    symbols = {"B": batch, "H": 64 * height, "W": 64 * width}
    contract = CONTRACTS["control_embedding"]
    original = control()
    prepared = prepare(original, contract, symbols)
    pixels = np.random.default_rng(seed).integers(0, 256, contract.inputs[0].resolve(symbols), np.uint8)
    np.testing.assert_array_equal(run(prepared, image=pixels)[0], run(original, image=pixels)[0])
    declared = [axis.dim_value for axis in prepared.graph.input[0].type.tensor_type.shape.dim]
    assert declared == list(contract.inputs[0].resolve(symbols))


def test_pixels_are_cast_before_they_are_moved() -> None:
    proto = control(pixels_first=True)
    assert [node.op_type for node in proto.graph.node][:2] == ["Transpose", "Cast"]
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    cast_pixels_first(fixed.graph)
    assert [node.op_type for node in fixed.graph.node][:2] == ["Cast", "Transpose"]
    onnx.checker.check_model(fixed, full_check=True)
    pixels = fresh_rng().integers(0, 256, (2, 64, 128, 3), np.uint8)
    np.testing.assert_array_equal(run(fixed, image=pixels)[0], run(proto, image=pixels)[0])


def test_cost_of_a_matrix_product() -> None:
    graph = ShapedGraph.at(projection(), CONTRACTS["image_projection"], {"R": 2})
    width, out = DIMS.face_embedding_width, DIMS.face_tokens * DIMS.token_width
    cost = cost_of(graph)
    assert cost.flops == 2 * 2 * width * out
    assert cost.parameters == width * out + 3
    assert cost.weight_bytes == 2 * width * out + 3 * 8
    assert cost.bytes == cost.weight_bytes + 2 * width * 4 + 2 * out * 2


def test_cost_of_a_convolution() -> None:
    graph = ShapedGraph.at(control(), CONTRACTS["control_embedding"], PICTURE)
    assert cost_of(graph).flops == 2 * (2 * DIMS.control_channels * 16 * 8) * (3 * 8 * 8)
    assert graph.unknown() == []


def test_cost_of_gemm_transposed_convolution_and_attention() -> None:
    heads = [("q", FLOAT, [2, 3, 5, 8]), ("k", FLOAT, [2, 3, 7, 8]), ("v", FLOAT, [2, 3, 7, 8])]
    node = helper.make_node("Attention", ["q", "k", "v"], ["y"])
    attention = model([node], heads, [("y", FLOAT, None)], [], opset=23)
    specs = tuple(TensorSpec(name, "float32", tuple(shape)) for name, _, shape in heads)
    contract = NetworkContract("any", "denoise", specs, ANY.outputs)
    assert cost_of(ShapedGraph.at(attention, contract, {})).flops == 2 * 2 * (2 * 3 * 5 * 7 * 8)
    nodes = [
        helper.make_node("Gemm", ["x", "a"], ["y"], transA=1),
        helper.make_node("ConvTranspose", ["z", "b"], ["t"], strides=[2, 2]),
    ]
    inputs = [("x", FLOAT, [6, 4]), ("z", FLOAT, [1, 3, 5, 5])]
    weights = [weight("a", 6, 9, dtype=np.float32), weight("b", 3, 2, 2, 2, dtype=np.float32)]
    proto = model(nodes, inputs, [("y", FLOAT, None), ("t", FLOAT, None)], weights)
    specs = tuple(TensorSpec(n, "float32", tuple(s)) for n, _, s in inputs)
    outputs = (TensorSpec("y", "float32", ()), TensorSpec("t", "float32", ()))
    expected = 2 * 4 * 9 * 6 + 2 * (3 * 5 * 5) * (2 * 2 * 2)
    assert cost_of(ShapedGraph.at(proto, NetworkContract("any", "denoise", specs, outputs), {})).flops == expected
