"""Plans that would be slow are refused: fp32 islands by the graph, unfused attention by the real builder's memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from doubles.graphs import FLOAT, HALF, model, weight
from instantrt.contracts import NetworkContract, TensorSpec
from instantrt_engines.build_support import BUILD_SUPPORT
from instantrt_engines.builder import Job, build_plan
from instantrt_engines.checks import (
    SlowPlanError,
    attention_memory,
    check_attention,
    check_precision,
    fp32_islands,
)
from instantrt_engines.graph import ShapedGraph
from instantrt_engines.log import BuildLog
from instantrt_engines.options import BuildOptions

WIDTH = 8


def contract_of(proto: onnx.ModelProto) -> NetworkContract:
    """Static axes, types as the graph has them ("net" is fp16)."""

    def specs(values):
        for value in values:
            kind = value.type.tensor_type
            dtype = "net" if kind.elem_type == HALF else "float32"
            yield TensorSpec(value.name, dtype, tuple(axis.dim_value for axis in kind.shape.dim))

    return NetworkContract("network", "denoise", tuple(specs(proto.graph.input)), tuple(specs(proto.graph.output)))


def shaped(proto: onnx.ModelProto) -> ShapedGraph:
    return ShapedGraph.at(proto, contract_of(proto), {})


def graph(nodes: list[tuple[str, list[str], str, dict]], source: int, result: int, weights=()) -> ShapedGraph:
    made = [helper.make_node(op, inputs, [out], name=f"node_{out}", **a) for op, inputs, out, a in nodes]
    inputs, outputs = [("x", source, [4, WIDTH])], [("y", result, [4, WIDTH])]
    return shaped(model(made, inputs, outputs, [weight("w", WIDTH, WIDTH), *weights]))


def to(element: int) -> dict[str, int]:
    return {"to": element}


def test_a_softmax_in_fp32_is_an_island() -> None:
    found = graph(
        [
            ("MatMul", ["x", "w"], "a", {}),
            ("Cast", ["a"], "b", to(FLOAT)),
            ("Softmax", ["b"], "c", {}),
            ("Mul", ["c", "c"], "d", {}),
            ("Cast", ["d"], "e", to(HALF)),
            ("MatMul", ["e", "w"], "y", {}),
        ],
        HALF,
        HALF,
    )
    (island,) = fp32_islands(found)
    assert island.operators == {"Softmax": 1, "Mul": 1}
    assert str(island) == "1 Mul, 1 Softmax from node node_c on"
    with pytest.raises(SlowPlanError, match="node_c"):
        check_precision("unet", found, "fp16")
    check_precision("unet", found, "fp32")


def test_fp32_at_the_edges_is_no_island() -> None:
    """As in the unet: fp32 latents are scaled and cast at the door, the sampler's fp32 arithmetic ends the graph."""
    found = graph(
        [
            ("Mul", ["x", "x"], "scaled", {}),
            ("Cast", ["scaled"], "a", to(HALF)),
            ("MatMul", ["a", "w"], "b", {}),
            ("Cast", ["b"], "c", to(FLOAT)),
            ("Add", ["c", "x"], "y", {}),
        ],
        FLOAT,
        FLOAT,
    )
    assert fp32_islands(found) == []
    check_precision("unet", found, "fp16")


def test_a_constant_cast_to_fp16_is_no_island() -> None:
    found = graph(
        [("Cast", ["k"], "a", to(FLOAT)), ("Cast", ["a"], "b", to(HALF)), ("Add", ["x", "b"], "y", {})],
        HALF,
        HALF,
        [weight("k", WIDTH)],
    )
    assert fp32_islands(found) == []


def test_two_islands_are_told_apart() -> None:
    chain = [("MatMul", ["x", "w"], "y0", {})]
    for i in (0, 1):
        chain += [
            ("Cast", [f"y{i}"], f"f{i}", to(FLOAT)),
            ("Exp", [f"f{i}"], f"e{i}", {}),
            ("Cast", [f"e{i}"], f"h{i}", to(HALF)),
            ("MatMul", [f"h{i}", "w"], "y" if i else "y1", {}),
        ]
    assert [island.first_node for island in fp32_islands(graph(chain, HALF, HALF))] == ["node_e0", "node_e1"]


WIDENED = [
    ("Cast", ["x"], "wide", to(FLOAT)),
    ("Attention", ["wide", "wide", "wide"], "z", {"q_num_heads": 2, "kv_num_heads": 2}),
    ("Cast", ["z"], "y", to(HALF)),
]


def attentive(nodes: list[tuple[str, list[str], str, dict]]) -> ShapedGraph:
    made = [helper.make_node(op, inputs, [out], name=f"node_{out}", **a) for op, inputs, out, a in nodes]
    return shaped(model(made, [("x", HALF, [2, 4, WIDTH])], [("y", HALF, [2, 4, WIDTH])], [], opset=23))


def test_only_attention_alone_may_be_widened_and_only_when_it_was_asked_for() -> None:
    found = attentive(WIDENED)
    (island,) = fp32_islands(found)
    assert island.operators == {"Attention": 1}
    check_precision("unet", found, "fp16", ("fp32_attention",))
    for options in ((), ("aux_streams",)):
        with pytest.raises(SlowPlanError, match="1 fp32 matrix products"):
            check_precision("unet", found, "fp16", options)
    with_more = [*WIDENED[:2], ("Mul", ["z", "z"], "squared", {}), ("Cast", ["squared"], "y", to(HALF))]
    with pytest.raises(SlowPlanError, match="1 fp32 matrix products") as error:
        check_precision("unet", attentive(with_more), "fp16", ("fp32_attention",))
    assert error.value.found == "node_z"
    beside = [*WIDENED[:2], ("Cast", ["z"], "narrow", to(HALF)), ("Cast", ["narrow"], "again", to(FLOAT))]
    beside += [("Exp", ["again"], "e", {}), ("Cast", ["e"], "y", to(HALF))]
    with pytest.raises(SlowPlanError, match="leaves fp16 in 1 place and comes back") as error:
        check_precision("unet", attentive(beside), "fp16", ("fp32_attention",))
    assert error.value.found == "1 Exp from node node_e on"


def test_fp32_matrix_products_need_a_reason() -> None:
    wide = numpy_helper.from_array(np.ones((WIDTH, WIDTH), np.float32), "wide")
    found = graph([("MatMul", ["x", "wide"], "y", {})], FLOAT, FLOAT, [wide])
    with pytest.raises(SlowPlanError, match="1 fp32 matrix products in an fp16 bundle"):
        check_precision("unet", found, "fp16")
    check_precision("face_encoder", found, "fp16")


def test_an_attention_operator_is_judged_like_a_decomposed_one() -> None:
    node = helper.make_node("Attention", ["x", "x", "x"], ["y"], q_num_heads=10, kv_num_heads=10)
    shape = [2, 4096, 640]
    memory = attention_memory(shaped(model([node], [("x", HALF, shape)], [("y", HALF, shape)], [], opset=23)))
    assert memory.scores_bytes == 2 * 10 * 4096 * 4096 * 2
    assert memory.decidable


def attention(kind: str, tokens: int = 4096, heads: int = 10, width: int = 64) -> onnx.ModelProto:
    """Self-attention on [2, heads, tokens, width] fp16: "plain", "fp32 softmax", or "unfusable" (a running sum)."""
    shape = [2, heads, tokens, width]
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["q"]),
        helper.make_node("Transpose", ["x"], ["k"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "k"], ["scores"]),
    ]
    if kind == "fp32 softmax":
        nodes += [
            helper.make_node("Cast", ["scores"], ["wide"], to=FLOAT),
            helper.make_node("Softmax", ["wide"], ["wide_p"], axis=-1),
            helper.make_node("Cast", ["wide_p"], ["p"], to=HALF),
        ]
    else:
        nodes.append(helper.make_node("Softmax", ["scores"], ["p"], axis=-1))
    if kind == "unfusable":
        nodes.append(helper.make_node("CumSum", ["p", "axis"], ["summed"]))
    nodes.append(helper.make_node("MatMul", ["summed" if kind == "unfusable" else "p", "x"], ["y"]))
    weights = [
        numpy_helper.from_array(np.array(width**-0.5, np.float16), "scale"),
        numpy_helper.from_array(np.array(3, np.int64), "axis"),
    ]
    return model(nodes, [("x", HALF, shape)], [("y", HALF, shape)], weights)


@pytest.mark.parametrize(("kind", "fused"), [("plain", True), ("fp32 softmax", True), ("unfusable", False)])
def test_the_real_builder_fuses_attention_and_the_check_sees_when_it_cannot(
    kind: str, fused: bool, tmp_path: Path
) -> None:
    proto = attention(kind)
    contract, support = contract_of(proto), BUILD_SUPPORT["tensorrt-rtx"]
    job = Job(support, contract, proto, tmp_path / "x.onnx", ({},), BuildOptions())
    measured = build_plan(support.load(), job, tmp_path / "plan", lambda _phase, _share: None, BuildLog())
    (activation,) = measured.activation_bytes
    memory = attention_memory(shaped(proto))
    assert memory.scores_bytes == 2 * 10 * 4096 * 4096 * (4 if kind == "fp32 softmax" else 2)
    assert memory.decidable
    if fused:
        assert activation < 100e6
        check_attention("unet", memory, activation)
        return
    assert activation > 671e6
    with pytest.raises(SlowPlanError, match="was not fused"):
        check_attention("unet", memory, activation)


def test_small_attention_cannot_be_judged_by_memory() -> None:
    memory = attention_memory(shaped(attention("plain", tokens=16)))
    assert not memory.decidable
    check_attention("unet", memory, 10**12)
