"""Two added attentions, which crash TensorRT-RTX 1.7.1, are spelled so that it builds them; nothing else is touched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from doubles.graphs import FLOAT, HALF, model, weight
from instantrt.contracts import NetworkContract, TensorSpec
from instantrt_engines.attention import spell_out_summed_attention
from instantrt_engines.builder import Job, build_plan
from instantrt_engines.flavours import FLAVOURS
from instantrt_engines.fold import fold_shapes
from instantrt_engines.log import BuildLog
from instantrt_engines.options import BuildOptions

ROWS, TOKENS, HEADS, WIDTH = 2, 64, 2, 64
SHAPES = {
    "q": [ROWS, TOKENS, WIDTH],
    "text": [ROWS, 77, WIDTH],
    "face": [ROWS, 16, WIDTH],
    "mask": [ROWS, TOKENS, 1],
}


def two_attentions(element: int, *, summed: bool = True, face_first: bool = False) -> onnx.ModelProto:
    """attention(q, text) + mask * attention(q, face), or both side by side."""
    attend = {"q_num_heads": HEADS, "kv_num_heads": HEADS}
    pair = ["masked", "from_text"] if face_first else ["from_text", "masked"]
    nodes = [
        helper.make_node("Identity", ["q"], ["query"]),
        helper.make_node("Attention", ["query", "text", "text"], ["from_text"], **attend),
        helper.make_node("Attention", ["query", "face", "face"], ["from_face"], name="to_face", **attend),
        helper.make_node("Mul", ["mask", "from_face"], ["masked"]),
        helper.make_node("Add" if summed else "Concat", pair, ["joined"], **({} if summed else {"axis": 2})),
        helper.make_node("MatMul", ["joined", "w"], ["y"]),
    ]
    inputs = [(name, element, shape) for name, shape in SHAPES.items()]
    dtype = np.float16 if element == HALF else np.float32
    weights = [weight("w", WIDTH if summed else 2 * WIDTH, WIDTH, dtype=dtype)]
    return model(nodes, inputs, [("y", element, [ROWS, TOKENS, WIDTH])], weights, opset=23)


def rewritten(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy = fold_shapes(copy)
    count = spell_out_summed_attention(copy.graph)
    onnx.checker.check_model(copy, full_check=True)
    return copy, count


@pytest.mark.parametrize("face_first", [False, True])
def test_the_attention_with_fewer_keys_is_spelled_out_and_computes_the_same(face_first: bool) -> None:
    proto = two_attentions(FLOAT, face_first=face_first)
    copy, count = rewritten(proto)
    assert count == 1
    (left,) = [node for node in copy.graph.node if node.op_type == "Attention"]
    assert left.input[1] == "text"
    rng = np.random.default_rng()
    inputs = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}
    results = [
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)[0]
        for m in (proto, copy)
    ]
    np.testing.assert_allclose(results[1], results[0], rtol=1e-5, atol=1e-5)


def test_attentions_that_are_not_added_stay() -> None:
    proto = two_attentions(FLOAT, summed=False)
    copy, count = rewritten(proto)
    assert count == 0
    assert [n.op_type for n in copy.graph.node].count("Attention") == 2


def test_an_attention_with_more_than_heads_stays() -> None:
    proto = two_attentions(FLOAT)
    proto.graph.node[2].attribute.append(helper.make_attribute("is_causal", 1))
    assert rewritten(proto)[1] == 0


def test_external_and_shared_names_stay_unique() -> None:
    copy, _ = rewritten(two_attentions(HALF))
    outputs = [name for node in copy.graph.node for name in node.output]
    assert len(outputs) == len(set(outputs))
    (scale,) = [t for t in copy.graph.initializer if t.name.endswith("/scale")]
    assert scale.data_type == HALF
    assert numpy_helper.to_array(scale) == np.float16((WIDTH / HEADS) ** -0.5)


def build(proto: onnx.ModelProto, folder: Path) -> int:
    inputs = tuple(TensorSpec(name, "net", tuple(shape)) for name, shape in SHAPES.items())
    contract = NetworkContract("unet", "loop", inputs, ())
    flavour = FLAVOURS["tensorrt-rtx"]
    job = Job(flavour, contract, proto, folder / "x.onnx", ({},), BuildOptions())
    return build_plan(flavour.load(), job, folder / "plan", lambda _phase, _share: None, BuildLog()).file.bytes


def test_the_real_builder_takes_what_is_rewritten(tmp_path: Path) -> None:
    assert build(rewritten(two_attentions(HALF))[0], tmp_path) > 0


def test_the_real_builder_still_crashes_on_what_is_not(tmp_path: Path) -> None:
    """When this fails, TensorRT-RTX has been mended and `spell_out_summed_attention` can go."""
    onnx.save(two_attentions(HALF), tmp_path / "two.onnx")
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import onnx
from instantrt_engines.build import FLAVOURS
from instantrt_engines.flavours import network_flags
api = FLAVOURS["tensorrt-rtx"].load()
logger = api.module.Logger(api.module.Logger.ERROR)
builder = api.Builder(logger)
network = builder.create_network(network_flags(api))
assert api.OnnxParser(network, logger).parse_from_file({str(tmp_path / "two.onnx")!r})
builder.build_serialized_network(network, builder.create_builder_config())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode < 0, done.stderr
