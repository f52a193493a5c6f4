"""`instantrt bench fidelity`: it passes on an exact bundle, and finds errors that were planted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from PIL import Image

from instantrt import GenerateRequest, GenerateResult, InstantID
from instantrt.bundle import Bundle, write_manifest
from instantrt.cli import main
from instantrt.engine.openvino import import_openvino, kept
from instantrt.result import Timings
from instantrt_bench.fidelity import lpips_distance
from instantrt_bench.fidelity.cases import LIMITS, Limits, compare_results, summarise_fidelity, with_limits
from instantrt_bench.fidelity.pair import reference_inputs
from instantrt_bench.reference.pipeline import Reference, ReferenceResult
from instantrt_bench.results.files import ScenarioResult, read_results
from instantrt_bench.results.metrics import cosine, relative_error
from randomness import fresh_rng

# One sampler: what is planted is found whatever the sampler, by limits that are left at their defaults.
SHORT = ("--samplers", "euler", "--steps", "4")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The commands set torch's threads for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def manifest(tmp_path: Path, astronaut: npt.NDArray[np.uint8]) -> Path:
    """One photo and one prompt."""
    Image.fromarray(astronaut).save(tmp_path / "astronaut.png")
    path = tmp_path / "manifest.csv"
    path.write_text("id,photo,licence,prompt\nastronaut,astronaut.png,public domain,\nnoir,,,film noir portrait\n")
    return path


def fidelity(bundle: Path, checkpoint: Path, out: Path, *more: object) -> int:
    arguments = [bundle, "--checkpoint", checkpoint, "--threads", 1, "--out", out, *more]
    return main(["bench", "fidelity", *map(str, arguments)])


def altered(bundle: Path, out: Path, network: str, alter: Any) -> Path:
    """A copy of the bundle with one network altered, and its digests made right again."""
    shutil.copytree(bundle, out)
    opened = Bundle.open(bundle)
    path = out / opened.manifest.networks[network]
    model = onnx.load(path)
    alter(model.graph)
    onnx.save(model, path)
    write_manifest(out, opened.manifest)
    return out


def scale_attention(graph: onnx.GraphProto, layer: int, factor: float) -> None:
    """One attention's scale times ``factor``: of its queries, or of what its softmax is given."""
    layers = [node for node in graph.node if node.op_type in ("Attention", "Softmax")]
    node = layers[layer % len(layers)]
    graph.initializer.append(numpy_helper.from_array(np.float32(factor), "planted"))
    scaled = helper.make_node("Mul", [node.input[0], "planted"], ["planted_scaled"])
    graph.node.insert(list(graph.node).index(node), scaled)
    node.input[0] = "planted_scaled"


def test_an_exact_bundle_passes_with_all_its_figures(
    nano_bundle: Path, nano_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fidelity.json"
    assert fidelity(nano_bundle, nano_checkpoint, out, *SHORT, "--json") == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "pass"
    results = read_results(out, "fidelity")
    assert results.options["manifest"]["photos"].keys() == {"astronaut", "officer"}
    networks = {s.parameters["network"]: s for s in results.scenarios if "network" in s.parameters}
    assert list(networks) == list(Bundle.open(nano_bundle).manifest.networks)
    for scenario in networks.values():
        samples = scenario.systems["runtime-onnxruntime"].samples["relative_error"]
        assert all(len(draws) == 3 for draws in samples.values())
        assert scenario.comparison["within_limits"]
    assert networks["unet"].comparison["relative_error"] > 0  # two implementations, not one compared with itself
    cases = [s for s in results.scenarios if "network" not in s.parameters]
    assert len(cases) == 4
    for case in cases:
        figures = case.comparison
        assert len(figures["latents_relative_error_per_call"]) == len(figures["latents_cosine_per_call"]) == 4
        assert max(figures["latents_relative_error_per_call"]) == figures["latents_relative_error"] < 1e-4
        assert min(figures["latents_cosine_per_call"]) > 1 - 1e-6
        assert figures["ssim"] > 0.999
        assert {(tmp_path / path).is_file() for path in figures["pictures"].values()} == {True}
    summary = results.summary
    worst = min(cases, key=lambda s: s.comparison["psnr_db"])
    assert (summary["worst_case"], summary["worst_psnr_db"]) == (worst.id, worst.comparison["psnr_db"])
    assert summary["worst_ssim"] == min(s.comparison["ssim"] for s in cases)
    with Image.open(tmp_path / summary["worst_picture"]) as picture:
        assert picture.width > 3 * 384
    assert (summary["worst_lpips"] is None) == (summary["lpips_missing"] is not None)


def test_a_target_told_to_compute_in_bf16_is_held_to_its_limits(
    nano_bundle: Path, nano_checkpoint: Path, manifest: Path, tmp_path: Path
) -> None:
    if "BF16" not in kept(import_openvino().Core).get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU does not compute in bf16")
    out, target = tmp_path / "fidelity.json", ("--target", "openvino", "--precision-hint", "bf16")
    assert fidelity(nano_bundle, nano_checkpoint, out, "--manifest", manifest, *SHORT, *target) == 0
    results = read_results(out)
    assert (results.options["precision_hint"], results.summary["verdict"]) == ("bf16", "pass")
    assert {name for s in results.scenarios for name in s.systems} == {"runtime-openvino-bf16", "reference-eager"}
    unet = next(s for s in results.scenarios if s.parameters.get("network") == "unet").comparison
    assert 1e-4 < unet["relative_error"] < unet["limits"]["relative_error"], "it is bf16 indeed"


@pytest.mark.parametrize("network", ["unet", "identitynet", "text_encoder_2"])
def test_one_attention_scale_off_by_two_percent_is_found(
    nano_bundle: Path, nano_checkpoint: Path, manifest: Path, tmp_path: Path, network: str
) -> None:
    layer = int(fresh_rng().integers(100))
    planted = altered(nano_bundle, tmp_path / "bundle", network, lambda graph: scale_attention(graph, layer, 1.02))
    out = tmp_path / "fidelity.json"
    assert fidelity(planted, nano_checkpoint, out, "--manifest", manifest, *SHORT) == 3
    summary = read_results(out).summary
    assert summary["verdict"] == "fail"
    assert [name for name in summary["failures"] if name.startswith("network=")] == [
        f"network={network}"
    ]  # and no other
    assert summary["worst_network"] == network


def test_a_failing_network_and_a_failing_system_are_reported_and_the_rest_goes_on(
    nano_bundle: Path, nano_checkpoint: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: onnx.GraphProto) -> None:
        graph.node[0].op_type = "NoSuchOperator"

    planted = altered(nano_bundle, tmp_path / "bundle", "text_encoder_2", broken)
    out = tmp_path / "fidelity.json"
    original = Reference.generate

    def failing(self: Reference, inputs: Any, **options: Any) -> ReferenceResult:
        if inputs.sampler == "lcm":
            raise MemoryError("no room")
        return original(self, inputs, **options)

    monkeypatch.setattr(Reference, "generate", failing)
    short = ("--manifest", manifest, "--samplers", "lcm", "euler", "--steps", 4)
    assert fidelity(nano_bundle, nano_checkpoint, out, *short) == 3
    results = read_results(out)
    lcm, euler = results.scenarios[-2:]
    assert lcm.systems["reference-eager"].error == "MemoryError: no room"
    assert lcm.systems["runtime-onnxruntime"].status == "ok"
    assert euler.comparison["within_limits"]
    assert results.summary["worst_case"] == euler.id
    assert list(results.summary["failures"]) == [lcm.id]
    # A network that cannot be loaded is reported before the runtime itself gives up on the bundle.
    assert fidelity(planted, nano_checkpoint, out, *short) == 1
    results = read_results(out)
    assert "NoSuchOperator" in (results.scenario("network=text_encoder_2").systems["runtime-onnxruntime"].error or "")
    assert results.scenario("network=unet").comparison["within_limits"]


def test_an_interrupted_run_keeps_what_is_finished(
    nano_bundle: Path, nano_checkpoint: Path, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []

    def interrupted(self: InstantID, request: GenerateRequest, **options: Any) -> GenerateResult:
        runs.append(request)
        if len(runs) > 1:
            raise KeyboardInterrupt
        return original(self, request, **options)

    original = InstantID.run
    monkeypatch.setattr(InstantID, "run", interrupted)
    out = tmp_path / "fidelity.json"
    assert fidelity(nano_bundle, nano_checkpoint, out, "--manifest", manifest, "--seeds", 1, 2, *SHORT) == 130
    results = read_results(out)
    assert results.scenarios[-1].parameters["seed"] == 1
    assert results.summary["verdict"] == "interrupted"
    assert results.summary["cases_compared"] == 1


def test_mistakes_are_told_before_anything_runs(
    nano_bundle: Path, nano_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fidelity.json"
    assert fidelity(nano_bundle, nano_checkpoint, out, "--manifest", tmp_path / "absent.json") == 1
    assert "absent.json" in capsys.readouterr().err
    assert fidelity(nano_bundle, tmp_path / "absent", out) == 1
    assert fidelity(nano_bundle, nano_checkpoint, out, "--steps", 1) == 1
    for wrong in (("--seeds", "-1"), ("--draws", "0"), ("--samplers", "runge")):
        with pytest.raises(SystemExit):
            fidelity(nano_bundle, nano_checkpoint, out, *wrong)
    assert not out.exists()


def test_the_latents_of_every_call_are_handed_out(
    nano_bundle: Path, nano_checkpoint: Path, astronaut: npt.NDArray[np.uint8]
) -> None:
    """Two samples, and two network calls a step; the reference's are the same, and no others are."""
    request = GenerateRequest(astronaut, "portrait", seed=5, steps=4, samples=2, sampler="heun")
    from instantrt_export.checkpoint import Checkpoint

    reported: list[tuple[int, int]] = []
    with InstantID.load(nano_bundle, threads=1) as runtime:
        ours = runtime.run(request, keep_latents=True, progress=lambda *done: reported.append(done))
        plain = runtime.run(request)
        inputs = reference_inputs(runtime.prepare(request))
    theirs = Reference.load(Checkpoint.open(nano_checkpoint), threads=1).generate(inputs, keep_latents=True)
    assert plain.latents_per_call is None
    assert ours.latents_per_call is not None
    assert ours.latents_per_call.shape == (7, 2, 4, 16, 16)
    assert reported == [(call, 7) for call in range(1, 8)]
    np.testing.assert_array_equal(ours.latents_per_call[-1], ours.latents)
    np.testing.assert_array_equal(ours.latents, plain.latents)
    for i, j in np.ndindex(7, 7):
        error = relative_error(ours.latents_per_call[i], theirs.latents_per_call[j])
        assert (error < 1e-4) == (i == j)


def results_apart(noise: float, grey: int = 0) -> tuple[GenerateResult, ReferenceResult]:
    """Two results of two calls whose last latents and whose pictures are so far apart."""
    rng = fresh_rng()
    latents = rng.standard_normal((2, 1, 4, 8, 8), np.float32)
    moved = latents.copy()
    moved[1] += np.float32(noise * np.linalg.norm(latents[1]) / np.linalg.norm(np.ones_like(latents[1])))
    pixels = rng.integers(0, 200, (1, 64, 64, 3), dtype=np.uint8)
    ours = GenerateResult(pixels + np.uint8(grey), moved[1], 1, np.zeros((5, 2), np.float32), (), Timings(), moved)
    return ours, ReferenceResult(pixels, latents[1], latents, timings_ms={}, call_ms=0.0, overhead_us_per_call=0.0)


def test_what_is_too_far_is_said_with_its_step() -> None:
    limits = Limits(latents_error=0.01, psnr_db=40.0)
    fine = compare_results(*results_apart(0.009), limits)
    assert fine["within_limits"]
    assert fine["latents_relative_error"] == pytest.approx(0.009, rel=1e-3)
    assert fine["psnr_db"] == 120.0
    far = compare_results(*results_apart(0.011), limits)
    assert far["failures"] == ["latents 1.1e-02 apart, beyond 0.01 from network call 2 on"]
    grey = compare_results(*results_apart(0.0, grey=5), limits)
    assert grey["failures"] == ["PSNR 34.2 dB, below 40 dB"]  # 20 log10(255 / 5)
    ours, theirs = results_apart(0.0)
    assert ours.latents_per_call is not None
    ours.latents_per_call[1] = np.nan
    broken = compare_results(ours, theirs, limits)
    assert broken["latents_relative_error"] is None
    assert broken["latents_cosine_per_call"][1] is None
    assert not broken["within_limits"]
    json.dumps(broken, allow_nan=False)


def test_a_case_that_is_not_finite_is_the_worst() -> None:
    def case(name: str, psnr: float, error: float | None) -> ScenarioResult:
        comparison = {"psnr_db": psnr, "ssim": 1.0, "lpips": None, "latents_relative_error": error}
        return ScenarioResult(name, {}, {}, {**comparison, "failures": [], "within_limits": error is not None})

    cases = [case("a", 40.0, 0.1), case("b", 30.0, 0.2), case("c", 90.0, None)]
    assert summarise_fidelity(cases[:2], complete=True, lpips_missing=None)["worst_case"] == "b"
    summary = summarise_fidelity(cases, complete=True, lpips_missing=None)
    assert (summary["worst_case"], summary["worst_psnr_db"], summary["worst_latents_error"]) == ("c", 30.0, None)
    assert summary["verdict"] == "fail"


def test_limits_that_are_given_replace_the_defaults() -> None:
    assert with_limits(LIMITS["fp32"], None, 45.0) == replace(LIMITS["fp32"], psnr_db=45.0)
    assert with_limits(LIMITS["fp16"], 0.5, None) == replace(LIMITS["fp16"], latents_error=0.5)


def test_cosine_of_tensors() -> None:
    assert cosine(np.array([[3.0, 0.0]]), np.array([[0.0, 2.0]])) == 0.0
    assert cosine(np.array([1e100, 0.0]), np.array([-1e-100, 0.0])) == -1.0
    for bad in (np.zeros(2), np.array([np.nan, 1.0])):
        with pytest.raises(ValueError, match="no angle"):
            cosine(bad, np.ones(2))
    with pytest.raises(ValueError, match="shapes"):
        cosine(np.ones(2), np.ones(3))


def test_lpips_is_used_only_where_package_and_weights_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Network(torch.nn.Module):
        def __init__(self, net: str, verbose: bool) -> None:
            super().__init__()

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (a - b).abs().mean()

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(lpips_distance, "import_module", lambda name: SimpleNamespace(LPIPS=Network))
    assert "AlexNet" in str(lpips_distance.find_lpips())
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").touch()
    distance = lpips_distance.find_lpips()
    assert not isinstance(distance, str)
    black = np.zeros((8, 8, 3), np.uint8)
    assert distance(black, black + np.uint8(255)) == pytest.approx(2.0)  # from -1 to 1

    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(lpips_distance, "import_module", absent)
    assert "not installed" in str(lpips_distance.find_lpips())
