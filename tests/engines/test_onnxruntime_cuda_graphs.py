"""Graphs for ONNX Runtime's CUDA provider: they compute the same, and every operator has a kernel."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from instantrt.bundle import Bundle
from instantrt.cli import main
from instantrt.contracts import NetworkContract
from instantrt.engine import ONNXRUNTIME_CUDA
from instantrt.engine.onnxruntime import fix_axes
from instantrt.plan import PlanError, open_plan
from instantrt_engines.build import BuildRequest
from instantrt_engines.builder import BuildError
from instantrt_engines.graph import load_graph
from instantrt_engines.onnxruntime_cuda.build import rewrite_graphs
from instantrt_engines.onnxruntime_cuda.kernels import kernel_table, types_of
from instantrt_engines.onnxruntime_cuda.rewrite import rewrite_for_cuda
from instantrt_engines.options import BuildOptionError, BuildOptions
from instantrt_engines.profiles import ShapeOptions
from instantrt_export.export import FACE_NETWORKS
from instantrt_export.networks.builders import BUILDERS
from instantrt_export.parity_inputs import random_inputs

NETWORKS = (*FACE_NETWORKS, *BUILDERS)
LACKING = {  # of the graphs as they are exported
    "identitynet": {"InstanceNormalization (22, T float)"},
    "unet": {"InstanceNormalization (22, T float)"},
    "vae_decoder": {"InstanceNormalization (22, T float)"},
    "text_encoder_2": {"ArgMax (13, T int32)"},
}
SYMBOLS = {"B": 2, "G": 2, "H": 64, "W": 128, "R": 2, "T": 3, "n": 2}


@pytest.fixture(scope="module")
def bundle(nano_bundle: Path) -> Bundle:
    return Bundle.open(nano_bundle)


@pytest.fixture
def copied(nano_bundle: Path, tmp_path: Path) -> Bundle:
    """A bundle that a test may add graphs to."""
    return Bundle.open(shutil.copytree(nano_bundle, tmp_path / "bundle"))


def test_every_network_is_tested(bundle: Bundle) -> None:
    assert set(NETWORKS) == set(bundle.contracts)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_rewritten_graph_computes_the_same(bundle: Bundle, network: str, rng: np.random.Generator) -> None:
    contract, model = bundle.contracts[network], load_graph(bundle.onnx(network))
    inputs = random_inputs(contract, SYMBOLS, "fp32", rng, vocabulary=400)
    expected, found = (_run(graph, contract, inputs) for graph in (model, rewrite_for_cuda(model)))
    for name in expected:
        difference = np.abs(found[name].astype(np.float64) - expected[name])
        if expected[name].dtype == np.uint8:
            assert difference.max() <= 1, name  # a value between two grey levels may be rounded to either
        else:
            assert difference.max() <= 1e-6 * max(1.0, float(np.abs(expected[name]).max())), name


@pytest.mark.parametrize("network", NETWORKS)
def test_every_operator_has_a_kernel(bundle: Bundle, network: str) -> None:
    model = load_graph(bundle.onnx(network))
    rewritten = rewrite_for_cuda(model)
    types = types_of(model, rewritten)
    assert {name for node in rewritten.graph.node for name in node.output if name} <= set(types)
    assert set(kernel_table().missing(rewritten, types)) == set()
    assert set(kernel_table().missing(model, types_of(model))) == LACKING.get(network, set())


@pytest.mark.parametrize("network", ["identitynet", "unet"])
def test_no_shape_is_left_to_be_computed_in_a_loop(bundle: Bundle, network: str, tmp_path: Path) -> None:
    """ONNX Runtime would compute it on the CPU, which sessions of the loop forbid. It looks for that after folding."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    contract = bundle.contracts[network]
    fix_axes(options, contract, {"B": 1, "G": 2, "H": 64, "W": 64})
    rewritten = rewrite_for_cuda(load_graph(bundle.onnx(network)))
    onnxruntime.InferenceSession(rewritten.SerializeToString(), options, providers=["CPUExecutionProvider"])
    folded = onnx.load(tmp_path / "folded.onnx")
    assert "Shape" in {node.op_type for node in rewritten.graph.node}
    assert not {"Shape", "Size"} & {node.op_type for node in folded.graph.node}


def test_weights_in_a_file_of_their_own_are_not_copied(copied: Bundle) -> None:
    model, path = onnx.load(copied.onnx("unet")), copied.onnx("unet")
    onnx.save(model, path, save_as_external_data=True, location="unet.onnx.data")
    rewritten = rewrite_for_cuda(load_graph(path))
    assert rewritten.ByteSize() < 1e6 < (path.parent / "unet.onnx.data").stat().st_size


def test_graphs_are_kept_as_plans_are(copied: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["build", str(copied.folder), "--target", ONNXRUNTIME_CUDA, "--only", "image_projection", "--json"]
    built = []
    for _ in range(2):
        assert main(command) == 0
        built.append(json.loads(capsys.readouterr().out)["networks"][0]["built"])
    assert built == [True, False]
    plan = open_plan(copied, ONNXRUNTIME_CUDA, "image_projection")
    assert plan.record.identity.profiles == ({"R": (1, 2, 2)},)
    assert plan.record.identity.target_version == kernel_table().version
    plan.path.write_bytes(plan.path.read_bytes() + b"x")
    with pytest.raises(PlanError, match="altered"):
        plan.open_verified()


@pytest.mark.parametrize(
    "request_",
    [
        BuildRequest(ONNXRUNTIME_CUDA, shapes=ShapeOptions(slots=(1, 1, 4))),
        BuildRequest(ONNXRUNTIME_CUDA, options=BuildOptions(strip_weights=True)),
    ],
)
def test_options_of_tensorrt_are_refused(copied: Bundle, request_: BuildRequest) -> None:
    with pytest.raises(BuildOptionError, match="has no options"):
        next(_rewritten(copied, request_))


def test_an_operator_without_a_kernel_is_named(copied: Bundle) -> None:
    path = copied.onnx("image_projection")
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Det", [model.graph.input[0].name], ["determinant"], name="det"))
    onnx.save(model, path)
    with pytest.raises(BuildError, match="without a CUDA kernel") as error:
        next(_rewritten(copied, BuildRequest(ONNXRUNTIME_CUDA, only=("image_projection",))))
    assert error.value.found == "Det (11, T float)"


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (("Attention", {"q_num_heads": 4, "kv_num_heads": 2}), "of a kind that the export does not write"),
        (("RMSNormalization", {}), "opset 21 has no RMSNormalization"),
    ],
)
def test_a_node_that_cannot_be_rewritten_is_refused(node: tuple[str, dict[str, int]], message: str) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 32]) for name in "xy")
    operator, attributes = node
    made = helper.make_node(operator, ["x"] * (3 if attributes else 2), ["y"], **attributes)
    graph = helper.make_graph([made], "graph", [x], [y])
    with pytest.raises(ValueError, match=message):
        rewrite_for_cuda(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]))


def test_an_open_kernel_takes_its_first_opset_only() -> None:
    table = kernel_table()
    kernel = replace(table.kernels["InstanceNormalization"][0], types={})
    assert (kernel.first, kernel.last) == (6, None)
    assert kernel.takes(6, {})
    assert not kernel.takes(22, {})
    assert not any(k.takes(13, {"T": {"int32"}}) for k in table.kernels["ArgMax"])
    assert any(k.takes(13, {"T": {"float"}}) for k in table.kernels["ArgMax"])


def _run(model: onnx.ModelProto, contract: NetworkContract, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in contract.outputs]
    return dict(zip(names, session.run(names, inputs), strict=True))


def _rewritten(bundle: Bundle, request: BuildRequest) -> Iterator[object]:
    return rewrite_graphs(bundle, request, lambda *_: None)
