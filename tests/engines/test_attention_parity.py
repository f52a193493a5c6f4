"""Two attentions of one query, which crash TensorRT-RTX 1.7.1, are decomposed so that it builds them."""

from __future__ import annotations

import subprocess
import sys
import weakref
from dataclasses import replace
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
from instantrt_engines.builder import Job, RefusedError, build_plan
from instantrt_engines.decompose_attention import decompose_attention
from instantrt_engines.log import BuildLog
from instantrt_engines.options import BuildOptions
from instantrt_engines.prepare import prepare
from instantrt_engines.widen_attention import widen_attention
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


@pytest.fixture
def attentive(tmp_path: Path) -> Bundle:
    """A bundle of a network with one attention."""
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
    return Bundle.open(write_bundle(tmp_path / "bundle", {"image_projection": proto}))


def refusing(monkeypatch: pytest.MonkeyPatch, with_operators: str | None, decomposed: str | None) -> list[bool]:
    """Play refusals in these words; builds that are not refused are real. Gives which had attention operators."""
    operators = []

    def build(api, job, out, progress, log):
        operators.append(any(node.op_type == "Attention" for node in job.model.graph.node))
        words = with_operators if operators[-1] else decomposed
        if words is not None:
            raise RefusedError("TensorRT-RTX could not build it", found=words, hint="read its log")
        return build_plan(api, job, out, progress, log)

    monkeypatch.setattr("instantrt_engines.build.build_plan", build)
    return operators


@pytest.mark.parametrize(
    "words",
    [
        "Attention operation was not supported by a dedicated kernel",
        "No importer registered for op: Attention",
        "Could not find any implementation for node {ForeignNode[self]}",
    ],
)
def test_a_refused_attention_is_built_again_decomposed_in_whatever_words(
    attentive: Bundle, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    operators = refusing(monkeypatch, words, None)
    (result,) = build_plans(attentive, BuildRequest("tensorrt-rtx"))
    assert operators == [True, False]
    assert result.record.file.bytes > 0


@pytest.mark.parametrize(
    ("first", "second", "found"),
    [("no kernel", "no memory", "no memory; and with attentions as operators: no kernel"), ("no", "no", "no")],
)
def test_if_that_is_refused_too_both_reasons_are_given(
    attentive: Bundle, monkeypatch: pytest.MonkeyPatch, first: str, second: str, found: str
) -> None:
    operators = refusing(monkeypatch, first, second)
    with pytest.raises(RefusedError, match="could not build it") as error:
        list(build_plans(attentive, BuildRequest("tensorrt-rtx")))
    assert operators == [True, False]
    assert error.value.found == found


def test_what_the_refused_build_held_is_released_before_the_second_one(
    attentive: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At full size TensorRT holds gigabytes for a build."""

    class Held:
        """What TensorRT allocates."""

    held: list[weakref.ref[Held]] = []

    def build(api, job, out, progress, log):
        if held:
            assert held[0]() is None
            return build_plan(api, job, out, progress, log)
        builder = Held()
        held.append(weakref.ref(builder))
        raise RefusedError("TensorRT-RTX could not build it", found="no kernel", hint="read its log")

    monkeypatch.setattr("instantrt_engines.build.build_plan", build)
    assert list(build_plans(attentive, BuildRequest("tensorrt-rtx")))


def test_a_refused_network_without_attention_is_not_built_again(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    operators = refusing(monkeypatch, None, "no")
    with pytest.raises(RefusedError):
        list(build_plans(Bundle.open(bundle), BuildRequest("tensorrt-rtx")))
    assert operators == [False]


# ---- sums in fp32 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [False, True])
def test_attentions_of_a_plan_are_widened_when_that_is_asked_for(
    attentive: Bundle, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """Only the datacenter flavour has the option: what TensorRT is given is looked at without building it."""

    class GivenError(Exception):
        pass

    rtx, built = BUILD_SUPPORT["tensorrt-rtx"], list[onnx.GraphProto]()
    monkeypatch.setitem(BUILD_SUPPORT, "tensorrt-rtx", replace(rtx, options=rtx.options | {"fp32_attention"}))

    def build(_api, job, *_):
        built.append(job.model.graph)
        raise GivenError

    monkeypatch.setattr("instantrt_engines.build.build_plan", build)
    with pytest.raises(GivenError):
        list(build_plans(attentive, BuildRequest("tensorrt-rtx", options=BuildOptions(fp32_attention=asked))))
    makers = {name: node for node in built[0].node for name in node.output}
    (attention,) = (node for node in built[0].node if node.op_type == "Attention")
    casts = [makers[name] for name in attention.input if makers[name].op_type == "Cast"]
    assert [helper.get_attribute_value(cast.attribute[0]) for cast in casts] == [FLOAT] * 3 * asked


def widened(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    assert widen_attention(copy) == sum(node.op_type == "Attention" for node in proto.graph.node)
    onnx.checker.check_model(copy, full_check=True)
    return copy


def test_widened_attentions_stay_operators_between_casts_and_compute_the_same() -> None:
    proto = face_attention(HALF, scale=0.1)
    copy = widened(proto)
    assert decomposed(copy)[1] == ["text.fp32", "face.fp32"]
    assert [node.op_type for node in copy.graph.node].count("Cast") == 3 + 2  # the query is cast once
    assert_same(copy, proto, np.float16, 5e-3)
    assert_same(decomposed(widened(face_attention(HALF)))[0], face_attention(HALF), np.float16, 5e-3)


def test_widened_attentions_that_share_a_query_are_still_known_to() -> None:
    assert decomposed(widened(face_attention(HALF)))[1] == ["text.fp32"]


def test_an_attention_in_fp32_is_not_widened() -> None:
    proto = face_attention(FLOAT, scale=0.1)
    assert widen_attention(proto) == 0
    assert decomposed(proto)[1] == []


def self_attention(tokens: int = 4096) -> onnx.ModelProto:
    shape = [2, tokens, 640]
    node = helper.make_node("Attention", ["q", "k", "v"], ["z"], name="self", q_num_heads=10, kv_num_heads=10)
    nodes = [node, helper.make_node("Mul", ["z", "z"], ["y"])]
    return model(nodes, [(name, HALF, shape) for name in "qkv"], [("y", HALF, shape)], [], opset=23)


def test_the_real_builder_takes_the_widened_operator_as_one_kernel(tmp_path: Path) -> None:
    """By its activation memory: as much as of the fp16 operator, and not that of a score matrix, 671 MB."""
    support, used = BUILD_SUPPORT["tensorrt-rtx"], []
    for proto in (self_attention(), widened(self_attention())):
        specs = tuple(TensorSpec(name, "net", (2, 4096, 640)) for name in "qkv")
        job = Job(
            support, NetworkContract("unet", "denoise", specs, ()), proto, tmp_path / "x.onnx", ({},), BuildOptions()
        )
        measured = build_plan(support.load(), job, tmp_path / "plan", lambda _phase, _share: None, BuildLog())
        used.append(measured.activation_bytes)
    assert used[0] == used[1]
    assert used[0][0] < 100e6
