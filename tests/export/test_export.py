"""The export itself: options, files, checks, and what the parity check lets pass."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto
from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from doubles.checkpoints import VAE, rewrite_weights
from instantrt.cli import main
from instantrt.contracts import NetworkContract, TensorSpec, network_contracts
from instantrt_export import onnx_export
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.export import ExportedNetwork, export_bundle
from instantrt_export.networks.builders import build_network
from instantrt_export.onnx_export import ContractMismatchError, check_contract, onnx_from_module
from instantrt_export.parity import Parity, ParityError, compare, parity_of
from instantrt_export.parity_inputs import RECORDED, RequestInputs, random_inputs, random_trials
from instantrt_export.shapes import ExportOptionError, ExportShapes
from instantrt_export.tokenizer_files import write_tokenizers
from randomness import fresh_rng

WIDTH = 200
SHAPES = ExportShapes(width=(64, 256), height=(64, 256))  # of the bundle fixture


@pytest.fixture(scope="module")
def checkpoint(nano_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(nano_checkpoint)


# --- options


@pytest.mark.parametrize(
    "options",
    [
        {"width": 100, "height": 128},
        {"width": 128, "height": (64, 100)},
        {"width": (256, 128), "height": 128},
        {"width": 0, "height": 128},
        {"width": 128, "height": 128, "slots": 0},
        {"width": 128, "height": 128, "guidance_batch": 3},
    ],
)
def test_impossible_shapes_are_refused(options: dict) -> None:
    with pytest.raises(ExportOptionError):
        ExportShapes(**options)


def test_static_axes_are_numbers_and_symbolic_axes_names() -> None:
    shapes = ExportShapes(width=256, height=(64, 128), slots=3)
    assert [shapes.graph_dim(d) for d in ("B", "G", "H/8", "W/16", 77)] == [3, "G", "H/8", 16, 77]


def test_examples_lie_in_the_extents_and_tell_axes_apart() -> None:
    example = SHAPES.example()
    assert all(low <= example[s] <= high for s, (low, high) in SHAPES.extents.items())
    assert example["H"] != example["W"]
    assert example["B"] != example["G"]


def test_unknown_network_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ExportOptionError, match="vae_encoder"):
        export_bundle(checkpoint, tmp_path, shapes=SHAPES, only=["unet", "vae_encoder"])
    assert not list(tmp_path.iterdir())


# --- one small network exported in several ways


def export_one(checkpoint: Checkpoint, out: Path, name: str, shapes: ExportShapes, **options) -> ExportedNetwork:
    (exported,) = export_bundle(checkpoint, out, shapes=shapes, only=[name], **options)
    return exported


@pytest.fixture(scope="module")
def exported(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> ExportedNetwork:
    return export_one(checkpoint, tmp_path_factory.mktemp("one"), "control_embedding", SHAPES)


def test_record_of_an_exported_network(exported: ExportedNetwork) -> None:
    assert exported.path.name == "control_embedding.onnx"
    assert exported.onnx_bytes == exported.path.stat().st_size > 100_000
    assert exported.seconds > 0
    assert exported.parity_error is not None
    assert 0 < exported.parity_error <= 1e-5


def test_progress_names_networks_and_prints_nothing(
    checkpoint: Checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    seen = []
    export_bundle(
        checkpoint,
        tmp_path,
        shapes=ExportShapes(width=64, height=64),
        only=["image_projection", "face_encoder"],
        check_parity=False,
        progress=lambda *event: seen.append(event),
    )
    assert seen == [("face_encoder", 0, 2), ("image_projection", 1, 2), ("", 2, 2)]
    assert capfd.readouterr() == ("", "")


def test_weights_of_large_networks_lie_beside_the_graph(
    checkpoint: Checkpoint, exported: ExportedNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "EXTERNAL_DATA_BYTES", 1000)
    monkeypatch.setattr(onnx_export, "INSIDE_BYTES", 256)
    large = export_one(checkpoint, tmp_path, "control_embedding", SHAPES)
    data = tmp_path / "onnx" / "control_embedding.onnx.data"
    assert large.path.stat().st_size < data.stat().st_size
    assert large.onnx_bytes == large.path.stat().st_size + data.stat().st_size
    picture = fresh_rng().integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    found, expected = (
        onnxruntime.InferenceSession(e.path, providers=["CPUExecutionProvider"]).run(None, {"image": picture})
        for e in (large, exported)
    )
    np.testing.assert_array_equal(found, expected)
    monkeypatch.undo()
    export_one(checkpoint, tmp_path, "control_embedding", SHAPES, check_parity=False)
    assert not data.exists()  # an earlier export's weights do not stay behind


def test_numbers_that_decide_shapes_stay_in_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes of a split into many parts, which strict shape inference and TensorRT's parser must see."""

    class Backwards(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(WIDTH, WIDTH)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = torch.split(self.layer(x), [1] * (WIDTH - 2) + [2], dim=1)
            return torch.cat(parts[::-1], dim=1)

    spec = TensorSpec("x", "net", ("R", WIDTH))
    contract = NetworkContract("backwards", "conditioning", (spec,), (replace(spec, name="y"),))
    monkeypatch.setattr(onnx_export, "EXTERNAL_DATA_BYTES", 1000)
    module, path = Backwards().eval(), tmp_path / "backwards.onnx"
    onnx_from_module(module, contract, SHAPES, "fp32", path)
    assert Path(f"{path}.data").stat().st_size >= 4 * WIDTH * WIDTH
    parity = parity_of(path, module, contract, "fp32", random_trials(contract, SHAPES.parity_sizes(), "fp32"))
    assert parity.error < 1e-5


def test_graphs_have_the_contracts_inputs_and_outputs(nano_bundle: Path, checkpoint: Checkpoint) -> None:
    for name, contract in network_contracts(checkpoint.dims).items():
        model = onnx.load(nano_bundle / "onnx" / f"{name}.onnx")
        check_contract(model, contract, SHAPES, "fp32")
        inner = {d.dim_param for v in model.graph.value_info for d in v.type.tensor_type.shape.dim}
        assert name.startswith("face_") or inner <= {""}  # axis names of the exporter's own would outlive overrides


def test_a_graph_that_is_not_its_contract_is_a_bug(exported: ExportedNetwork, checkpoint: Checkpoint) -> None:
    contract = network_contracts(checkpoint.dims)["control_embedding"]
    check_contract(onnx.load(exported.path), contract, SHAPES, "fp32")
    for spoil in (spoil_name, spoil_dtype, spoil_axis, spoil_count):
        model = onnx.load(exported.path)
        spoil(model.graph)
        with pytest.raises(ContractMismatchError):
            check_contract(model, contract, SHAPES, "fp32")


def spoil_name(graph: onnx.GraphProto) -> None:
    graph.input[0].name = "picture"


def spoil_dtype(graph: onnx.GraphProto) -> None:
    graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def spoil_axis(graph: onnx.GraphProto) -> None:
    graph.output[0].type.tensor_type.shape.dim[2].dim_param = "W/8"


def spoil_count(graph: onnx.GraphProto) -> None:
    graph.output.append(graph.output[0])


# --- parity


def test_parity_finds_a_changed_weight(exported: ExportedNetwork, checkpoint: Checkpoint) -> None:
    contract = network_contracts(checkpoint.dims)["control_embedding"]
    module = build_network("control_embedding", checkpoint, torch.float32)
    trials = list(random_trials(contract, SHAPES.parity_sizes(), "fp32"))
    parity_of(exported.path, module, contract, "fp32", trials).require()
    with torch.no_grad():
        next(module.parameters())[0, 0, 0, 0] += 0.05
    parity = parity_of(exported.path, module, contract, "fp32", trials)
    assert list(parity.failures) == ["features"]
    with pytest.raises(ParityError, match="features"):
        parity.require()


def test_parity_of_not_a_number_fails() -> None:
    expected = np.ones((2, 3), np.float32)
    found = expected.copy()
    found[1, 1] = np.nan
    assert Parity("unet", "fp16", {"x": compare(found, expected)}).failures


def test_parity_of_pixels_allows_few_neighbouring_grey_levels() -> None:
    expected = fresh_rng().integers(1, 255, (1, 100, 100, 3), dtype=np.uint8)
    one_pixel, many_pixels, two_levels = expected.copy(), expected + 1, expected.copy()
    one_pixel[0, 0, 0, 0] += 1
    two_levels[0, 0, 0, 0] -= 2 if expected[0, 0, 0, 0] > 1 else -2
    failed = [
        bool(Parity("v", "fp32", {"x": compare(x, expected)}).failures) for x in (one_pixel, many_pixels, two_levels)
    ]
    assert failed == [False, True, True]


def test_random_inputs_fill_the_contract(checkpoint: Checkpoint) -> None:
    symbols = {"B": 2, "G": 2, "H": 64, "W": 128, "R": 2, "T": 3, "n": 1}
    for contract in network_contracts(checkpoint.dims).values():
        inputs = random_inputs(contract, symbols, "fp16", fresh_rng(), vocabulary=700)
        for spec in contract.inputs:
            assert inputs[spec.name].shape == spec.resolve(symbols)
            assert inputs[spec.name].dtype == spec.numpy_dtype("fp16")
            assert len(np.unique(inputs[spec.name])) > 1


def test_the_decoder_has_a_precision_of_its_own(checkpoint: Checkpoint, tmp_path: Path) -> None:
    for own, element in ((None, TensorProto.FLOAT16), ("fp32", TensorProto.FLOAT)):
        (exported,) = export_bundle(
            checkpoint,
            tmp_path / str(own),
            shapes=SHAPES,
            precision="fp16",
            only=["vae_decoder"],
            check_parity=False,
            vae_precision=own,  # type: ignore[arg-type]
        )
        weights = onnx.load(exported.path).graph.initializer
        assert {w.data_type for w in weights if len(w.dims) == 4} == {element}


# --- tokenizers


@pytest.mark.parametrize("folder", ["tokenizer", "tokenizer_2"])
def test_tokenizers_load_without_transformers(checkpoint: Checkpoint, tmp_path: Path, folder: str) -> None:
    write_tokenizers(checkpoint, tmp_path)
    original = CLIPTokenizer.from_pretrained(checkpoint.places.base / folder)
    config = json.loads((tmp_path / folder / "tokenizer_config.json").read_text())
    ids = (original.bos_token_id, original.eos_token_id, original.pad_token_id)
    assert config == dict(zip(("bos_id", "eos_id", "pad_id"), ids, strict=True)) | {"max_length": 77}
    tokenizer = Tokenizer.from_file(str(tmp_path / folder / "tokenizer.json"))
    for text in ("a Photo of  a person, film noir!", "naïve café 2026", ""):
        expected = original(text, add_special_tokens=False).input_ids
        assert tokenizer.encode(text, add_special_tokens=False).ids == expected


# --- parity on what a request gives, and what fp16 does not hold


class Overflowing(torch.nn.Module):
    """Inputs of 1 make 100,000 in between and 1 in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False)
        with torch.no_grad():
            self.up.weight.copy_(torch.eye(4) * 1e5**0.5)
            self.down.weight.copy_(torch.eye(4) / 1e5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.up(self.up(x)))


OVERFLOWING = NetworkContract(
    "overflowing", "conditioning", (TensorSpec("x", "net", ("R", 4)),), (TensorSpec("y", "net", ("R", 4)),)
)


def test_what_overflows_in_fp16_is_named_although_the_cpu_provider_hides_it(tmp_path: Path) -> None:
    path = tmp_path / "overflowing.onnx"
    onnx_from_module(Overflowing().half().eval(), OVERFLOWING, SHAPES, "fp16", path)
    inputs = {"x": np.ones((2, 4), np.float16)}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert np.isfinite(session.run(None, inputs)[0]).all()  # computed in fp32
    with pytest.raises(ParityError, match=r"(?s)too large for fp16.*Found: up reaches 100000, .*65504.*precision fp32"):
        parity_of(path, Overflowing().eval(), OVERFLOWING, "fp16", [inputs], half=True)
    small = {"x": np.full((2, 4), 0.5, np.float16)}
    parity_of(path, Overflowing().eval(), OVERFLOWING, "fp16", [small], half=True).require()
    parity_of(path, Overflowing().eval(), OVERFLOWING, "fp16", [inputs]).require()  # of a network that stays fp32


def test_an_output_that_is_not_finite_is_named(tmp_path: Path) -> None:
    class Dividing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1 / x

    path = tmp_path / "dividing.onnx"
    onnx_from_module(Dividing().eval(), OVERFLOWING, SHAPES, "fp32", path)
    with pytest.raises(
        ParityError, match=r"(?s)overflowing gives numbers that are not finite.*Found: output y: 8 of 8"
    ):
        parity_of(path, Dividing().eval(), OVERFLOWING, "fp32", [{"x": np.zeros((2, 4), np.float32)}])


def test_a_part_that_computes_not_a_number_is_named(tmp_path: Path) -> None:
    module = Overflowing().eval()
    path = tmp_path / "overflowing.onnx"
    onnx_from_module(module, OVERFLOWING, SHAPES, "fp32", path)
    with torch.no_grad():
        module.down.weight[0, 0] = torch.nan
    with pytest.raises(ParityError, match=r"(?s)not finite.*Found: down: nan"):
        parity_of(path, module, OVERFLOWING, "fp32", [{"x": np.ones((2, 4), np.float32)}])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_request_inputs_fill_the_contract_with_numbers_of_a_requests_size(
    checkpoint: Checkpoint, precision: str
) -> None:
    requests = RequestInputs(checkpoint.scheduler_config, 128, 64)
    symbols = SHAPES.request_sizes(requests.size)
    assert symbols["G"] == 2
    for contract in network_contracts(checkpoint.dims).values():
        inputs = requests.inputs(contract, symbols, precision, vocabulary=700)
        for spec in contract.inputs:
            assert inputs[spec.name].shape == spec.resolve(symbols)
            assert inputs[spec.name].dtype == spec.numpy_dtype(precision)
            assert np.isfinite(inputs[spec.name]).all()
        if "step" in inputs:
            row = inputs["step_table"][0, inputs["step"][0]]
            assert np.std(inputs["latents"] * row[0]) == pytest.approx(1, rel=0.3)
        for name, (rms, largest) in RECORDED.items():
            if name in inputs:
                assert np.abs(inputs[name]).max() == pytest.approx(largest, rel=1e-3)
                assert np.sqrt(np.mean(inputs[name].astype(float) ** 2)) == pytest.approx(rms, rel=0.3)


def test_networks_are_given_what_those_before_them_gave(checkpoint: Checkpoint) -> None:
    requests = RequestInputs(checkpoint.scheduler_config, 128, 64)
    symbols = SHAPES.request_sizes(requests.size)
    contracts = network_contracts(checkpoint.dims)
    marks = {}
    for mark, contract in enumerate(contracts.values(), 100):
        for sizes in (SHAPES.example(), symbols):  # of several trials the last is the request's
            outputs = {
                spec.name: np.full(spec.resolve(sizes), mark + place / 16, np.float32)
                for place, spec in enumerate(contract.outputs)
            }
            requests.keep(contract.name, outputs)
        marks |= {(contract.name, name): float(values.flat[0]) for name, values in outputs.items()}
    unet = requests.inputs(contracts["unet"], symbols, "fp32")
    identitynet = requests.inputs(contracts["identitynet"], symbols, "fp32")
    given = {
        "residual_1": marks["identitynet", "residual_1"],
        "time_embeddings": marks["time_embedding", "unet"],
        "text_kv": marks["cross_attention", "text_kv_unet"],
        "face_kv": marks["cross_attention", "face_kv_unet"],
    }
    assert {name: set(unet[name].flat) for name in given} == {name: {mark} for name, mark in given.items()}
    assert set(identitynet["control_features"].flat) == {marks["control_embedding", "features"]}
    assert set(identitynet["face_kv"].flat) == {marks["cross_attention", "face_kv_identitynet"]}
    attention = requests.inputs(contracts["cross_attention"], symbols, "fp32")
    texts = {marks["text_encoder", "hidden_states"], marks["text_encoder_2", "hidden_states"]}
    assert set(attention["text_tokens"].flat) == texts
    assert set(attention["face_tokens"].flat) == {marks["image_projection", "tokens"]}
    pooled = requests.inputs(contracts["time_embedding"], symbols, "fp32")["pooled"]
    assert set(pooled.flat) == {marks["text_encoder_2", "pooled"]}


def test_the_control_picture_of_a_request_is_a_keypoint_picture(checkpoint: Checkpoint) -> None:
    requests = RequestInputs(checkpoint.scheduler_config, 128, 64)
    contract = network_contracts(checkpoint.dims)["control_embedding"]
    image = requests.inputs(contract, SHAPES.request_sizes(requests.size), "fp32")["image"]
    assert np.mean(image == 0) > 0.3
    assert image.max() > 200


def test_a_vae_that_overflows_in_fp16_is_refused_by_name(nano_checkpoint: Path, tmp_path: Path) -> None:
    """Its weights fit, what they make of real latents does not, and a normalisation hides it from the picture."""
    folder = Path(shutil.copytree(nano_checkpoint, tmp_path / "checkpoint", copy_function=os.symlink))
    name = "decoder.mid_block.resnets.0.conv1"
    grow = lambda weights: weights | {f"{name}.weight": weights[f"{name}.weight"] * 3e5}  # noqa: E731
    rewrite_weights(folder / VAE, grow)
    arguments = [str(folder), "--precision", "fp16", "--only", "vae_decoder"]
    with pytest.raises(
        ParityError, match=rf"(?s)vae_decoder computes.*{name} reaches .*set force_upcast.*--vae-precision fp32"
    ):
        export_one(Checkpoint.open(folder), tmp_path / "out", "vae_decoder", SHAPES, precision="fp16")
    assert main(["export", *arguments, "--out", str(tmp_path / "bundle")]) == 1
    assert not (tmp_path / "bundle").exists()
