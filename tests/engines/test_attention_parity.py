"""Two attentions of one query, which crash TensorRT-RTX 1.7.1, are decomposed so that it builds them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from doubles.graphs import FLOAT, HALF, model, weight, write_bundle
from doubles.small import DIMS
from instantrt.bundle import Bundle
from instantrt.contracts import NetworkContract, TensorSpec
from instantrt_engines.build import BuildRequest, build_plans
from instantrt_engines.build_support import BUILD_SUPPORT
from instantrt_engines.builder import Job, NoAttentionKernelError, build_plan
from instantrt_engines.decompose_attention import decompose_attention
from instantrt_engines.log import BuildLog
from instantrt_engines.options import BuildOptions
from instantrt_engines.prepare import prepare
from randomness import fresh_rng

ROWS, TOKENS, HEADS, WIDTH = 2, 64, 2, 64
SHAPES = {
    "query": [ROWS, TOKENS, WIDTH],
    "text": [ROWS, 77, WIDTH],
    "face": [ROWS, 16, WIDTH],
    "mask": [ROWS, TOKENS, 1],
}


def face_attention(element: int, *, face_first: bool = False, **of_face: float) -> onnx.ModelProto:
    """attention(q, text) + mask * attention(q, face)."""
    attend = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
    pair = ["masked", "from_text"] if face_first else ["from_text", "masked"]
    nodes = [
        helper.make_node("Attention", ["query", "text", "text"], ["from_text"], name="to_text", **attend),
        helper.make_node("Attention", ["query", "face", "face"], ["from_face"], name="to_face", **attend, **of_face),
        helper.make_node("Mul", ["mask", "from_face"], ["masked"]),
        helper.make_node("Add", pair, ["joined"]),
        helper.make_node("MatMul", ["joined", "w"], ["y"]),
    ]
    inputs = [(name, element, shape) for name, shape in SHAPES.items()]
    weights = [weight("w", WIDTH, WIDTH, dtype=np.float16 if element == HALF else np.float32)]
    return model(nodes, inputs, [("y", element, [ROWS, TOKENS, WIDTH])], weights, opset=23)


def decomposed(proto: onnx.ModelProto, *, everywhere: bool = False) -> tuple[onnx.ModelProto, list[str]]:
    """The rewritten model and the keys of the attentions that stayed operators."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    count = decompose_attention(copy, everywhere=everywhere)
    onnx.checker.check_model(copy, full_check=True)
    left = [node.input[1] for node in copy.graph.node if node.op_type == "Attention"]
    assert count == 2 - len(left)
    return copy, left


def assert_same(found: onnx.ModelProto, expected: onnx.ModelProto, dtype: type, tolerance: float) -> None:
    rng = fresh_rng()
    inputs = {name: rng.standard_normal(shape).astype(dtype) for name, shape in SHAPES.items()}
    one, other = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)[0]
        for m in (found, expected)
    )
    assert np.linalg.norm(one.astype(float) - other) <= tolerance * np.linalg.norm(other.astype(float))


def test_where_a_builder_takes_them_both_attentions_of_a_query_stay_operators() -> None:
    for target, expected in (("tensorrt", 2), ("tensorrt-rtx", 1)):
        shared = BUILD_SUPPORT[target].attentions_share_a_query
        inputs = tuple(TensorSpec(name, "net", tuple(shape)) for name, shape in SHAPES.items())
        contract = NetworkContract("unet", "denoise", inputs, (TensorSpec("y", "net", (ROWS, TOKENS, WIDTH)),))
        prepared = prepare(face_attention(HALF), contract, {}, shared_query=shared)
        assert sum(node.op_type == "Attention" for node in prepared.graph.node) == expected, target


@pytest.mark.parametrize("face_first", [False, True])
def test_the_attention_with_fewer_keys_is_decomposed_and_computes_the_same(face_first: bool) -> None:
    proto = face_attention(HALF, face_first=face_first)
    copy, left = decomposed(proto)
    assert left == ["text"]
    assert_same(copy, proto, np.float16, 5e-3)


def test_another_scale_makes_them_no_sharing_a_query() -> None:
    assert decomposed(face_attention(HALF, scale=0.1))[1] == ["text", "face"]


def test_all_are_decomposed_for_a_builder_that_does_not_know_the_operator() -> None:
    proto = face_attention(FLOAT, scale=0.1)
    copy, left = decomposed(proto, everywhere=True)
    assert left == []
    assert_same(copy, proto, np.float32, 1e-5)


def test_a_masked_attention_is_decomposed() -> None:
    proto = face_attention(HALF, scale=0.1)
    proto.graph.node[1].input.append("causal")
    proto.graph.input.append(helper.make_tensor_value_info("causal", HALF, [1, 1, TOKENS, 16]))
    assert decomposed(proto)[1] == ["text"]


def build(proto: onnx.ModelProto, folder: Path) -> int:
    contract = NetworkContract("unet", "denoise", tuple(TensorSpec(n, "net", tuple(s)) for n, s in SHAPES.items()), ())
    support = BUILD_SUPPORT["tensorrt-rtx"]
    job = Job(support, contract, proto, folder / "x.onnx", ({},), BuildOptions())
    return build_plan(support.load(), job, folder / "plan", lambda _phase, _share: None, BuildLog()).file.bytes


@pytest.mark.parametrize("of_face", [{}, {"scale": 0.1}])
def test_the_real_builder_takes_decomposed_attentions_and_those_of_different_scale(of_face, tmp_path: Path) -> None:
    assert build(decomposed(face_attention(HALF, **of_face))[0], tmp_path) > 0


def test_the_real_builder_still_crashes_on_sharing_a_query(tmp_path: Path) -> None:
    """When this fails, TensorRT-RTX has been mended and shared queries need not be decomposed."""
    onnx.save(face_attention(HALF), tmp_path / "shared_query.onnx")
    code = f"""
from instantrt_engines.build_support import BUILD_SUPPORT, network_flags
api = BUILD_SUPPORT["tensorrt-rtx"].load()
logger = api.module.Logger(api.module.Logger.ERROR)
builder = api.Builder(logger)
network = builder.create_network(network_flags(api))
assert api.OnnxParser(network, logger).parse_from_file({str(tmp_path / "shared_query.onnx")!r})
builder.build_serialized_network(network, builder.create_builder_config())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode < 0, done.stderr


def test_a_refused_attention_is_built_again_decomposed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of one attention; the builder's refusal is played, its second build is real."""
    width, tokens = DIMS.token_width, DIMS.face_tokens
    attend = {"q_num_heads": 2, "kv_num_heads": 2}
    nodes = [
        helper.make_node("Cast", ["embedding"], ["half"], to=HALF),
        helper.make_node("MatMul", ["half", "w"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["rows"]),
        helper.make_node("Attention", ["rows", "rows", "rows"], ["tokens"], name="self", **attend),
    ]
    weights = [
        weight("w", DIMS.face_embedding_width, tokens * width),
        numpy_helper.from_array(np.array([-1, tokens, width]), "shape"),
    ]
    inputs = [("embedding", FLOAT, ["R", DIMS.face_embedding_width])]
    proto = model(nodes, inputs, [("tokens", HALF, ["R", tokens, width])], weights, opset=23)
    folder = write_bundle(tmp_path / "bundle", {"image_projection": proto})
    operators = []

    def refuse_operators(api, job, out, progress, log):
        kinds = {node.op_type for node in job.model.graph.node}
        operators.append("Attention" in kinds)
        if operators[-1]:
            raise NoAttentionKernelError("no kernel")
        return build_plan(api, job, out, progress, log)

    monkeypatch.setattr("instantrt_engines.build.build_plan", refuse_operators)
    (result,) = build_plans(Bundle.open(folder), BuildRequest("tensorrt-rtx"))
    assert operators == [True, False]
    assert result.record.file.bytes > 0
