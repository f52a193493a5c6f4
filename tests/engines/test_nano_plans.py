"""The nano networks in fp16: real TensorRT-RTX plans on a machine without a GPU, their cost, and their pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from instantrt import InstantID
from instantrt.bundle import Bundle
from instantrt.cli import main
from instantrt.contracts import network_contracts
from instantrt.plan import open_plan
from instantrt_engines.build import BuildRequest, build_plans
from instantrt_engines.checks import FP32_NETWORKS, check_precision, fp32_islands
from instantrt_engines.graph import ShapedGraph, load_graph
from instantrt_engines.inspect import Sizes, inspect_bundle
from instantrt_engines.profiles import ShapeOptions

TARGET = "tensorrt-rtx"
AT = {"B": 1, "G": 2, "H": 128, "W": 128, "R": 1, "T": 30, "n": 1}


@pytest.fixture(scope="module")
def bundle(nano_bundle_fp16: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose plans this module may write: the exported files are links."""
    folder = tmp_path_factory.mktemp("plans")
    for source in nano_bundle_fp16.rglob("*"):
        link = folder / source.relative_to(nano_bundle_fp16)
        if source.is_file():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.hardlink_to(source)
    return folder


@pytest.fixture(scope="module")
def static(bundle: Path) -> Path:
    """The bundle with static plans of all its networks."""
    results = list(build_plans(Bundle.open(bundle), BuildRequest(TARGET)))
    assert all(result.reason is not None for result in results)
    return bundle


def test_all_networks_build_without_a_gpu_and_are_complete(static: Path) -> None:
    opened = Bundle.open(static)
    contracts = network_contracts(opened.dims)
    assert len(contracts) >= 10
    assert set(opened.manifest.networks) == set(contracts)
    for name in contracts:
        plan = open_plan(opened, TARGET, name)
        plan.open_verified().close()
        symbols = {s: v for s, v in AT.items() if s in contracts[name].symbols}
        profile = plan.profile(symbols)
        assert plan.record.activation_bytes[profile] > 0
        assert plan.record.weight_bytes > 0


def test_the_loop_has_a_static_profile_for_each_guidance_half(static: Path) -> None:
    opened = Bundle.open(static)
    for name in ("unet", "identitynet"):
        profiles = open_plan(opened, TARGET, name).record.identity.profiles
        assert [p["G"] for p in profiles] == [(1, 1, 1), (2, 2, 2)]
        assert all(low == high for profile in profiles for low, _, high in profile.values())


def test_nothing_is_built_twice(static: Path) -> None:
    assert all(result.reason is None for result in build_plans(Bundle.open(static), BuildRequest(TARGET)))


def test_no_network_leaves_fp16_in_the_middle(nano_bundle_fp16: Path) -> None:
    opened = Bundle.open(nano_bundle_fp16)
    for name, contract in opened.contracts.items():
        graph = ShapedGraph.at(load_graph(opened.folder / f"onnx/{name}.onnx"), contract, AT)
        assert graph.unknown() == []
        if name not in FP32_NETWORKS:
            assert fp32_islands(graph) == []
        check_precision(name, graph, "fp16")


def test_inspect_reports_cost_and_memory(static: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(static), "--vram", "8GB", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    networks = {n["name"]: n for n in report["networks"]}
    assert set(networks) == set(Bundle.open(static).contracts)
    for network in networks.values():
        assert network["plan_problem"] is None
        assert network["parameters"] > 0
        assert network["flops"] > 0
        assert network["bytes"] > network["weight_bytes"]
        assert network["plan_bytes"] == Path(network["plan"]).stat().st_size
    assert networks["unet"]["precision"] == "fp16"
    assert networks["face_encoder"]["precision"] == "fp32"
    memory = report["memory"]
    records = [open_plan(Bundle.open(static), TARGET, name).record for name in networks]
    assert max(memory["activations"].values()) == max(max(record.activation_bytes) for record in records)
    assert sum(memory["weights"].values()) == sum(n["device_weight_bytes"] for n in networks.values())
    assert 0 < memory["one_shape_bytes"] < memory["kept_bytes"]
    assert report["fit"]["auto"] == "resident"
    assert all(one["fits"] for one in report["fit"]["residencies"])
    for one in report["fit"]["residencies"]:
        assert one["needed_bytes"] == memory["residencies"][one["residency"]]["needed_bytes"]
    assert report["fit"]["remedies"] == []


def test_flops_agree_with_torchs_own_counter(nano_checkpoint: Path, nano_bundle_fp16: Path) -> None:
    """The VAE decoder, whose torch module and graph do the same work."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from instantrt_engines.cost import cost_of
    from instantrt_export.checkpoint import Checkpoint
    from instantrt_export.networks.builders import build_network

    module = build_network("vae_decoder", Checkpoint.open(nano_checkpoint), torch.float32)
    opened = Bundle.open(nano_bundle_fp16)
    contract = opened.contracts["vae_decoder"]
    graph = ShapedGraph.at(load_graph(nano_bundle_fp16 / "onnx/vae_decoder.onnx"), contract, AT)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(contract.inputs[0].resolve(AT)))
    (attention,) = module.decoder.mid_block.attentions
    uncounted = 2 * 2 * 16**2 * 16**2 * attention.to_q.out_features  # torch does not know the attention operator
    assert cost_of(graph).flops == counter.get_total_flops() + uncounted
    assert cost_of(graph).parameters == pytest.approx(sum(p.numel() for p in module.parameters()), rel=1e-2)


def test_inspect_says_when_plans_do_not_hold_the_size_or_do_not_fit(static: Path, capsys) -> None:
    assert main(["inspect", str(static), "--slots", "4"]) == 0
    assert "is stale: wrong profiles" in capsys.readouterr().out
    assert main(["inspect", str(static), "--slots", "4", "--vram", "8GB"]) == 1
    assert "once all networks are built" in capsys.readouterr().err


def test_inspect_says_by_how_much_it_fits_or_not_and_what_to_do(static: Path, capsys) -> None:
    def said(vram_bytes: int) -> str:
        assert main(["inspect", str(static), "--vram", f"{vram_bytes / 1e6:.6f}MB"]) == 0
        return capsys.readouterr().out

    memory = inspect_bundle(Bundle.open(static), TARGET, Sizes(1, 2, 128, 128)).memory
    assert memory is not None
    assert re.search(r"^resident: fits into 8.00 GB: needs at most .* to spare$", said(8 * 10**9), re.M)
    assert memory.needed_bytes("staged") < memory.needed_bytes("resident")
    tight = said(memory.needed_bytes("resident") - 1)
    assert re.search(r"^staged: fits into", tight, re.M)
    assert "`--residency staged`; every request then loads weights anew" in tight
    short = said(memory.needed_bytes("staged") - 1)
    for residency in ("resident", "staged"):
        assert re.search(rf"^{residency}: does not fit into .*: needs at most .* too much$", short, re.M)
    assert "it fits as long as all requests have this one shape" in short
    assert "--weight-streaming" in short
    assert "fewer slots" not in short, "the plans are for one slot"
    hopeless = said(500 * 10**6)
    assert "does not fit into 0.50 GB" in hopeless
    assert "one shape:" not in hopeless
    assert "To do" not in hopeless, "nothing would help"


def test_inspect_works_without_plans(nano_bundle_fp16: Path, capsys) -> None:
    assert main(["inspect", str(nano_bundle_fp16), "--size", "128x128"]) == 0
    assert "no plans built" in capsys.readouterr().out
    assert main(["inspect", str(nano_bundle_fp16), "--size", "512x512"]) == 1
    assert "exported for pictures of 128x128" in capsys.readouterr().err
    assert main(["inspect", str(nano_bundle_fp16), "--slots", "5"]) == 1
    assert "slots 5: outside what this bundle was exported for" in capsys.readouterr().err


def test_inspect_lists_tensors_and_profiles_when_asked(static: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(static), "--tensors", "--guidance-batch", "1"]) == 0
    text = capsys.readouterr().out
    (title,) = re.findall(r"^unet, profile (.*)$", text, re.M)
    assert set(title.split(", ")) == {"B 1", "G 1", "H 128", "W 128"}
    contract = Bundle.open(static).contracts["unet"]
    section = text[text.index("unet, profile") :]
    for kind, specs in (("in", contract.inputs), ("out", contract.outputs)):
        for spec in specs:
            assert re.search(
                rf"^  {kind} +{spec.name} .*{re.escape(str(list(spec.resolve(AT | {'G': 1}))))}$", section, re.M
            )


def test_all_networks_build_with_a_batch_range(static: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Last in this file: it replaces the static plans of the networks that have slots."""
    command = ["build", str(static), "--target", TARGET, "--slots", "1:1:4", "--guidance-batch", "2", "--json"]
    assert main(command) == 0
    report = {n["name"]: n for n in json.loads(capsys.readouterr().out)["networks"]}
    opened = Bundle.open(static)
    assert set(report) == set(opened.contracts)
    for name, contract in opened.contracts.items():
        affected = {"G"} if contract.stage == "conditioning" else {"B", "G"}
        assert report[name]["built"] == bool(affected & set(contract.symbols))
        plan = open_plan(opened, TARGET, name)
        for slots in (1,) if contract.stage == "conditioning" else (1, 4):
            plan.profile(AT | {"B": slots})
    assert main(["inspect", str(static), "--vram", "600MB", "--json"]) == 0
    assert any("fewer slots" in remedy for remedy in json.loads(capsys.readouterr().out)["fit"]["remedies"])


def test_the_options_object_and_the_command_line_agree(bundle: Path) -> None:
    from instantrt.cli import build_parser
    from instantrt_engines.run_build import build_request

    arguments = build_parser().parse_args(
        ["build", str(bundle), "--target", TARGET, "--slots", "2", "--guidance-batch", "2"]
    )
    assert build_request(arguments.selected.parsed(arguments)) == BuildRequest(
        TARGET, ShapeOptions(slots=(2, 2, 2), guidance_batch=(2,))
    )


def test_the_fp16_pipelines_picture_is_the_fp32_pipelines(
    nano_bundle_fp16: Path, nano_bundle: Path, astronaut: np.ndarray
) -> None:
    """Through casts on the CPU, whole pipeline, 10 steps, guided: SSIM >= 0.98."""
    pictures = []
    for folder in (nano_bundle_fp16, nano_bundle):
        with InstantID.load(folder) as pipeline:
            result = pipeline.generate(
                face=astronaut, prompt="a portrait", steps=10, guidance_scale=5.0, seed=7, width=128, height=128
            )
        pictures.append(np.asarray(result.images[0]))
    assert pictures[1].std() > 5
    similarity = structural_similarity(*pictures, channel_axis=-1)
    print(f"SSIM of fp16 to fp32: {similarity:.5f}")
    assert similarity >= 0.98
