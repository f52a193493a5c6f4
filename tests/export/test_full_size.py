"""The full-size run, proven at a small scale; the real one under `slow`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from instantrt.contracts import Residual, network_contracts
from instantrt_bench.full_size.__main__ import broken_limits
from instantrt_bench.full_size.checkpoint import allocate, random_checkpoint
from instantrt_bench.full_size.measure import run_measured
from instantrt_bench.full_size.numbers import LIMIT, compare_step
from instantrt_bench.full_size.scales import SCALES, SDXL, SMALL
from instantrt_engines.graph import load_graph
from instantrt_engines.onnxruntime_cuda.kernels import kernel_table, types_of
from instantrt_engines.onnxruntime_cuda.rewrite import rewrite_for_cuda
from instantrt_export.networks.builders import BUILDERS, build_network
from instantrt_nano import weights


def test_the_full_scale_has_sdxls_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a single weight: everything stays on the meta device."""
    monkeypatch.setattr("instantrt_bench.full_size.checkpoint.write_faces", write_empty_faces)
    checkpoint = random_checkpoint(SDXL, tmp_path, 0)
    dims = checkpoint.dims
    assert (dims.text_width, dims.text_width_2, dims.pooled_width, dims.token_width) == (768, 1280, 1280, 2048)
    assert [(r.channels, r.stride) for r in dims.residuals] == [
        *[(320, 8)] * 3,
        (320, 16),
        *[(640, 16)] * 2,
        (640, 32),
        *[(1280, 32)] * 2,
    ]
    assert dims.mid_residual == Residual(1280, 32)
    assert dims.adapter_strides == (16, 32)
    assert len(checkpoint.face_attention_sites) == 70
    assert (dims.detector, dims.detector_px, dims.face_px, dims.face_embedding_width) == ("scrfd", 640, 112, 512)
    count = sum(p.numel() for p in checkpoint.components["unet"].skeleton.parameters())
    adapters = sum(int(np.prod(s)) for n, s in checkpoint.adapter.shapes.items() if n.startswith("ip_adapter"))
    assert (count + adapters) / 1e9 == pytest.approx(2.908, abs=1e-3)


def write_empty_faces(folder: Path, _blocks: object, _seed: int) -> None:
    folder.mkdir(parents=True)
    for name in ("scrfd_10g_bnkps.onnx", "glintr100.onnx"):
        (folder / name).touch()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small scale's face networks and tokenizers."""
    folder = tmp_path_factory.mktemp("files")
    random_checkpoint(SMALL, folder, 0)
    return folder


def test_weights_are_seeded_different_and_never_constant(files: Path) -> None:
    unets = [random_checkpoint(SMALL, files, seed).unet(torch.float16).state_dict() for seed in (0, 0, 1)]
    seen = set()
    for name, tensor in unets[0].items():
        assert tensor.dtype == torch.float16
        assert torch.equal(tensor, unets[1][name])
        assert not torch.equal(tensor, unets[2][name])
        assert tensor.float().std() > 0
        digest = tensor.numpy().tobytes()
        assert digest not in seen, f"{name} equals another tensor: TensorRT would merge them"
        seen.add(digest)


def test_only_the_parts_that_a_network_uses_get_memory(files: Path) -> None:
    module = random_checkpoint(SMALL, files, 0, "control_embedding").identitynet(torch.float16)
    there = {name for name, parameter in module.named_parameters() if not parameter.is_meta}
    assert there
    assert all(name.startswith("controlnet_cond_embedding.") for name in there)


@pytest.mark.parametrize("network", BUILDERS)
def test_networks_are_made_without_files_and_nowhere_but_on_the_device_that_is_named(
    network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device, which draws no numbers and which nothing of the CPU can be computed with."""

    def normal(shape: tuple[int, ...], _label: str, _seed: int, device: torch.device) -> torch.Tensor:
        return torch.randn(shape, device=device)

    monkeypatch.setattr("instantrt_bench.full_size.checkpoint.seeded_normal", normal)
    module = build_network(network, random_checkpoint(SMALL, None, 0, device="meta"), torch.float16)
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}


def test_weights_are_drawn_where_they_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def randn(shape: tuple[int, ...], generator: torch.Generator, device: object) -> torch.Tensor:
        asked.append(device)
        return torch.ones(shape)

    def generator(device: object) -> torch.Generator:
        asked.append(device)
        return torch.default_generator

    with monkeypatch.context() as patched:
        patched.setattr(torch, "randn", randn)
        patched.setattr(torch, "Generator", generator)
        weights.seeded_normal((2,), "a weight", 0, "somewhere")
    assert asked == ["somewhere", "somewhere"]

    def normal(shape: tuple[int, ...], _label: str, _seed: int, device: torch.device) -> torch.Tensor:
        asked.append(device)
        return torch.ones(shape)

    monkeypatch.setattr(weights, "seeded_normal", normal)
    layer = torch.nn.Linear(2, 2)
    weights.fill_with_random(layer, "a layer", 0)
    assert asked[2:] == [layer.weight.device, layer.bias.device]


def test_an_unknown_buffer_is_refused() -> None:
    with torch.device("meta"):
        module = torch.nn.BatchNorm2d(3)
    with pytest.raises(NotImplementedError, match="running_mean"):
        allocate(module, torch.float16, ())


def test_a_childs_own_memory_and_output_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, time\nheld = b'x' * 300_000_000\ntime.sleep(0.5)\nprint(sys.argv[1])\n"
    (tmp_path / "hungry.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    here = np.ones(125_000_000)  # 1 GB that the child must not be charged with
    done = run_measured("hungry", ["fed"])
    assert here.all()
    assert done.output == "fed\n"
    assert 0.5 < done.seconds < 60
    assert 300e6 < done.peak_bytes < 500e6


def test_a_failed_child_is_told() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        run_measured("no_such_module", [])


@pytest.mark.parametrize(
    ("more", "messages"),
    [
        ({}, []),
        ({"total_seconds": 1501}, ["the whole run, s: 1501, the limit is 1500"]),
        ({"peak_memory_gb": 19.5}, ["peak memory, GB: 19.5, the limit is 19"]),
        ({"networks": [{"name": "unet", "activation_bytes": 671_000_000}]}, ["activations of the unet"]),
    ],
)
def test_a_run_that_takes_too_much_says_of_what(more: dict[str, Any], messages: list[str]) -> None:
    unet = {"name": "unet", "activation_bytes": 308_669_952}
    report = {"networks": [unet], "total_seconds": 1408.1, "peak_memory_gb": 12.32} | more
    broken = broken_limits(report)
    assert len(broken) == len(messages)
    assert all(text in line for text, line in zip(messages, broken, strict=True))


@pytest.mark.slow
def test_the_whole_run_at_a_small_scale(tmp_path: Path) -> None:
    """Minutes: every network is exported and built in processes of its own."""
    run_measured("instantrt_bench.full_size", ["--scale", "small", "--out", str(tmp_path)])
    report = json.loads((tmp_path / "full-size.json").read_text())
    dims = random_checkpoint(SMALL, tmp_path / "files", 0).dims
    assert [n["name"] for n in report["networks"]] == list(network_contracts(dims))
    for network in report["networks"]:
        for figure in ("export_seconds", "build_seconds", "onnx_bytes", "plan_bytes", "weight_bytes"):
            assert network[figure] > 0
        assert network["activation_bytes"] > 0
        assert 0 < network["peak_memory_gb"] <= report["peak_memory_gb"]
    assert report["total_seconds"] >= sum(n["build_seconds"] for n in report["networks"])
    for network in network_contracts(dims):
        model = load_graph(tmp_path / "bundle" / "onnx" / f"{network}.onnx")
        rewritten = rewrite_for_cuda(model)
        assert set(kernel_table().missing(rewritten, types_of(model, rewritten))) == set(), network
    table = (tmp_path / "full-size.md").read_text()
    assert all(network["name"] in table for network in report["networks"])


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["small", pytest.param("sdxl", marks=pytest.mark.timeout(3600, func_only=True))])
def test_one_step_in_onnx_runtime_is_torchs(scale: str, tmp_path: Path) -> None:
    report = compare_step(SCALES[scale], tmp_path, 256, 0)
    print(report)
    assert report["norm"] > 0
    assert report["relative_error"] <= LIMIT
