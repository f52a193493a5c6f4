"""OpenVINO as a target: the numbers of ONNX Runtime, buffers shared, precision as asked, compiled networks kept.

Whole requests through it are in test_generate.py too. Devices other than the CPU are played: none was at hand.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from instantrt import GenerateRequest, InstantID
from instantrt.bundle import Bundle
from instantrt.engine import TargetOptions
from instantrt.engine.openvino import OpenVinoEngine, OpenVinoTarget, find_device, import_openvino
from instantrt.errors import BundleError, DeviceError, EngineError, MissingExtraError, RequestError
from instantrt.network import Network
from instantrt.targets import open_target
from instantrt.threads import usable_cpus
from instantrt_bench.fidelity.networks import executed
from instantrt_bench.results.metrics import psnr_db
from instantrt_export.export import FACE_NETWORKS
from instantrt_export.networks.builders import BUILDERS
from instantrt_export.parity_inputs import random_inputs
from randomness import fresh_rng

NETWORKS = (*FACE_NETWORKS, *BUILDERS)
SIZES = {"B": 2, "G": 2, "H": 64, "W": 128, "R": 2, "T": 5, "n": 2}
LOOP = {"B": 1, "G": 2, "H": 64, "W": 64}
LARGEST_ERROR = 1e-4  # of any element in fp32, over the output's largest; norms of differences were 5e-6 at most
GREY_SHARE = 1e-3  # of u8 values that may be off, by one level
BF16_ERRORS = (1e-3, 5e-2)  # of the norm: computing in 8 significant bits shows, and does no more than that


@pytest.fixture(scope="module")
def bundle(nano_bundle: Path) -> Bundle:
    return Bundle.open(nano_bundle)


@pytest.fixture(scope="module")
def target(bundle: Bundle, compiled: Path) -> Iterator[OpenVinoTarget]:
    with closing(OpenVinoTarget(bundle, TargetOptions(threads=1, runtime_cache=compiled))) as opened:
        yield opened


def inputs_of(bundle: Bundle, network: str) -> tuple[dict[str, int], dict[str, npt.NDArray[Any]]]:
    """Sizes, and fresh random inputs of them."""
    contract = bundle.contracts[network]
    sizes = {symbol: SIZES[symbol] for symbol in contract.symbols}
    tokenizer = json.loads((bundle.folder / "tokenizer/tokenizer.json").read_text(encoding="utf-8"))
    return sizes, random_inputs(contract, sizes, bundle.precision, fresh_rng(), len(tokenizer["model"]["vocab"]))


def outputs_of(target: Any, bundle: Bundle, network: str, sizes: Any, inputs: Any) -> dict[str, npt.NDArray[Any]]:
    return executed(target, bundle.contracts[network], bundle, sizes, inputs)


def relative_error(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    difference = found.astype(np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected.astype(np.float64)))


def engine_with_buffers(target: OpenVinoTarget, bundle: Bundle, network: str) -> tuple[OpenVinoEngine, dict[str, Any]]:
    """A loop network, bound to buffers with fresh random contents."""
    contract = bundle.contracts[network]
    inputs = random_inputs(contract, LOOP, bundle.precision, fresh_rng())
    engine = target.load(network, LOOP)
    buffers = {}
    for spec in (*contract.inputs, *contract.outputs):
        buffer = target.device.allocate(spec.resolve(LOOP), spec.numpy_dtype(bundle.precision))
        if spec.name in inputs:
            target.device.upload(inputs[spec.name], buffer)
        engine.bind(spec.name, buffer)
        buffers[spec.name] = buffer
    return engine, buffers


# ---- numbers ----


def test_these_are_all_networks(bundle: Bundle) -> None:
    assert set(NETWORKS) == set(bundle.contracts)


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_gives_the_numbers_of_onnxruntime_element_by_element(
    target: OpenVinoTarget, bundle: Bundle, network: str
) -> None:
    """bf16, which is OpenVINO's own choice on some CPUs, would be off by a hundred times as much."""
    sizes, inputs = inputs_of(bundle, network)
    expected = outputs_of(open_target("onnxruntime", bundle, TargetOptions(threads=1)), bundle, network, sizes, inputs)
    for name, found in outputs_of(target, bundle, network, sizes, inputs).items():
        difference = np.abs(found.astype(np.float64) - expected[name])
        assert np.isfinite(found).all()
        if found.dtype == np.uint8:
            assert difference.max() <= 1
            assert np.mean(difference > 0) <= GREY_SHARE
        else:
            assert difference.max() <= LARGEST_ERROR * np.abs(expected[name]).max(), name


def test_pictures_are_those_of_onnxruntime_and_the_same_in_every_run(
    nano_bundle: Path, compiled: Path, astronaut: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same face. A keypoint's last bit may change grey levels of the crop that the face encoder sees."""
    request = GenerateRequest(face=astronaut, prompt="portrait", steps=4, seed=7, width=64, height=64)
    with (
        InstantID.load(nano_bundle, threads=1) as reference,
        InstantID.load(nano_bundle, target="openvino", threads=1, runtime_cache=compiled) as pipeline,
    ):
        expected, found, again = reference.run(request), pipeline.run(request), pipeline.run(request)
        known, own = (each.prepare(request).identity.embedding for each in (reference, pipeline))
        monkeypatch.setattr(pipeline._preparation, "prepare", reference._preparation.prepare)
        of_same_face = pipeline.run(request)
    assert psnr_db(of_same_face.pixels, expected.pixels) >= 80
    assert relative_error(of_same_face.latents, expected.latents) <= 1e-5
    assert relative_error(own, known) <= 1e-3
    assert relative_error(found.latents, expected.latents) <= 1e-3
    np.testing.assert_array_equal(found.latents, again.latents)
    np.testing.assert_array_equal(found.pixels, again.pixels)


def test_weights_by_stage_give_the_same_pictures(
    nano_bundle: Path, compiled: Path, astronaut: npt.NDArray[np.uint8]
) -> None:
    request = GenerateRequest(face=astronaut, prompt="portrait", steps=4, seed=7, width=64, height=64)
    made = []
    for residency in ("resident", "staged"):
        options: Any = {"residency": residency, "runtime_cache": compiled}
        with InstantID.load(nano_bundle, target="openvino", threads=1, **options) as pipeline:
            made.append(pipeline.run(request).pixels)
    np.testing.assert_array_equal(*made)


# ---- buffers ----


def test_buffers_are_read_and_written_where_they_are(target: OpenVinoTarget, bundle: Bundle) -> None:
    engine, buffers = engine_with_buffers(target, bundle, "unet")
    with closing(engine):
        addresses = {name: engine._request.get_tensor(name).data.ctypes.data for name in buffers}
        assert addresses == {name: buffer.address for name, buffer in buffers.items()}
        engine.enqueue(target.device.stream)
        assert {name: engine._request.get_tensor(name).data.ctypes.data for name in buffers} == addresses
        first = buffers["next_latents"].array.copy()
        assert np.abs(first).min() > 0, "written, over zeros"
        buffers["latents"].array += 1
        engine.enqueue(target.device.stream)
        changed = buffers["next_latents"].array.copy()
        assert relative_error(changed, first) > 0.01
        buffers["latents"].array -= 1
        buffers["next_latents"].array[:] = np.nan
        engine.enqueue(target.device.stream)
        assert relative_error(buffers["next_latents"].array, first) < 1e-5
        assert engine.busy_ns > 0


def test_a_buffer_can_be_bound_anew(target: OpenVinoTarget, bundle: Bundle) -> None:
    engine, buffers = engine_with_buffers(target, bundle, "identitynet")
    with closing(engine):
        engine.enqueue(target.device.stream)
        other = target.device.allocate(buffers["residual_mid"].shape, buffers["residual_mid"].dtype)
        engine.bind("residual_mid", other)
        expected = buffers["residual_mid"].array.copy()
        buffers["residual_mid"].array[:] = 0
        engine.enqueue(target.device.stream)
        np.testing.assert_array_equal(other.array, expected)
        assert not buffers["residual_mid"].array.any()
        with pytest.raises(KeyError, match="no input or output 'latent'"):
            engine.bind("latent", other)
    engine.close()


def test_a_network_of_any_size_takes_one_after_another(target: OpenVinoTarget, bundle: Bundle) -> None:
    with closing(Network(target, bundle.contracts["control_embedding"], bundle.precision)) as network:
        for height, width in ((64, 128), (192, 64), (64, 128)):
            image = fresh_rng().integers(0, 256, (1, height, width, 3), dtype=np.uint8)
            assert network({"image": image})["features"].shape[2:] == (height // 8, width // 8)


# ---- options ----


def compiled_properties(target: OpenVinoTarget, network: str = "image_projection") -> Any:
    with closing(target.load(network, {})) as engine:
        return engine._request.get_compiled_model().get_property


def test_networks_compute_in_f32_with_the_threads_that_were_asked_for(target: OpenVinoTarget) -> None:
    """OpenVINO itself would take bf16 on CPUs that have it."""
    found = compiled_properties(target)
    assert found("INFERENCE_PRECISION_HINT") == import_openvino().Type.f32
    assert found("INFERENCE_NUM_THREADS") == found("NUM_STREAMS") == 1
    assert str(found("PERFORMANCE_HINT")).endswith("LATENCY")


def test_more_threads_than_cpus_are_capped_with_a_warning(bundle: Bundle) -> None:
    with closing(OpenVinoTarget(bundle, TargetOptions(threads=1000))) as target:
        assert target.warnings[0].startswith(f"{usable_cpus()} threads instead of 1000")
        assert target._config["INFERENCE_NUM_THREADS"] == usable_cpus()


def test_bf16_is_computed_where_it_is_asked_for(bundle: Bundle, target: OpenVinoTarget) -> None:
    if "BF16" not in target._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU does not compute in bf16")
    sizes, inputs = inputs_of(bundle, "unet")
    expected = outputs_of(target, bundle, "unet", sizes, inputs)["next_latents"]
    with closing(OpenVinoTarget(bundle, TargetOptions(threads=1, precision_hint="bf16"))) as rounded:
        assert compiled_properties(rounded)("INFERENCE_PRECISION_HINT") == import_openvino().Type.bf16
        found = outputs_of(rounded, bundle, "unet", sizes, inputs)["next_latents"]
    low, high = BF16_ERRORS
    assert low < relative_error(found, expected) < high


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision_hint": "f16"}, "unknown precision hint\nFound: 'f16'\nTo do: use one of: f32, bf16"),
        ({"openvino_device": "AUTO"}, "unknown openvino device\nFound: 'AUTO'\nTo do: use one of: CPU, GPU, NPU"),
        ({"residency": "streaming"}, "openvino has no residency streaming"),
        ({"weight_budget_bytes": 1}, "openvino has no option weight_budget_bytes"),
        ({"threads": 1, "openvino_device": "GPU"}, "threads are those of the CPU"),
    ],
)
def test_an_option_that_there_is_not_is_refused(nano_bundle: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        InstantID.load(nano_bundle, target="openvino", **options)


def test_other_targets_have_no_precision_hint(bundle: Bundle) -> None:
    with pytest.raises(RequestError, match="onnxruntime has no option precision_hint"):
        open_target("onnxruntime", bundle, TargetOptions(precision_hint="f32"))


def test_more_slots_than_the_bundle_was_exported_for_are_refused(target: OpenVinoTarget) -> None:
    assert not target.accepts("unet", {**LOOP, "B": 99})
    with pytest.raises(RequestError, match="exported for"):
        target.load("unet", {**LOOP, "B": 99})


def test_a_graph_that_it_cannot_read_is_an_error_of_ours(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "onnx", lambda _network: Path(__file__))
    target = OpenVinoTarget(bundle, TargetOptions())
    with pytest.raises(BundleError, match=r"OpenVINO cannot read test_openvino_engine\.py"):
        target.load("unet", LOOP)


def test_a_network_that_it_cannot_compile_is_an_error_of_ours(bundle: Bundle) -> None:
    target = OpenVinoTarget(bundle, TargetOptions())
    target._config["NUM_STREAMS"] = "many"
    with pytest.raises(EngineError, match=r"cannot compile image_projection for its device CPU\nFound: .*"):
        target.load("image_projection", {})


def test_without_the_package_the_extra_is_named(nano_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtraError, match=r"instantrt\[openvino\]"):
        InstantID.load(nano_bundle, target="openvino")


def test_an_interrupt_is_one_after_two_targets_are_gone(bundle: Bundle) -> None:
    """Two cores would leave a stack for signals that is gone, and the first signal would end the process."""
    code = """if True:
        import gc, os, signal, sys, time
        from pathlib import Path
        from instantrt.bundle import Bundle
        from instantrt.engine import TargetOptions
        from instantrt.engine.openvino import OpenVinoTarget
        signal.signal(signal.SIGINT, signal.default_int_handler)
        bundle = Bundle.open(Path(sys.argv[1]))
        targets = [OpenVinoTarget(bundle, TargetOptions(threads=1)) for _ in range(2)]
        while targets:
            targets.pop(0).close()
            gc.collect()
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt:
            sys.exit(3)
    """
    status = subprocess.run([sys.executable, "-c", code, str(bundle.folder)], check=False, timeout=60).returncode
    assert status == 3


# ---- devices ----


def test_devices_are_found_by_kind_and_number() -> None:
    several = ["CPU", "GPU.0", "GPU.1", "NPU"]
    assert [find_device(several, "GPU", n) for n in (0, 1)] == ["GPU.0", "GPU.1"]
    assert find_device(several, "CPU", 0) == "CPU"
    assert find_device(several, "NPU", 0) == "NPU"
    with pytest.raises(DeviceError, match=r"no device GPU of number 2\nFound: CPU, GPU\.0, GPU\.1, NPU"):
        find_device(several, "GPU", 2)
    with pytest.raises(DeviceError, match=r"no device NPU\nFound: CPU\n"):
        find_device(["CPU"], "NPU", 0)


CAPABILITIES = {
    "CPU": ["WINOGRAD", "FP32", "INT8"],
    "GPU.0": ["FP32", "FP16"],
    "GPU.1": ["FP32", "FP16"],
    "NPU": ["FP16", "INT8"],
}


class PlayedCore:
    """A machine with two GPUs and an NPU, and a CPU without bf16."""

    available_devices = (*CAPABILITIES,)

    def get_property(self, device: str, name: str) -> Any:
        return {"OPTIMIZATION_CAPABILITIES": CAPABILITIES[device], "FULL_DEVICE_NAME": f"a played {device}"}[name]


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(Core=PlayedCore, get_version=lambda: "0")
    monkeypatch.setattr("instantrt.engine.openvino.import_openvino", lambda: module)


def test_bf16_on_a_cpu_without_it_says_what_it_has(played: None, bundle: Bundle) -> None:
    with pytest.raises(DeviceError, match="CPU does not compute in bf16\nFound: a played CPU: WINOGRAD, FP32, INT8"):
        OpenVinoTarget(bundle, TargetOptions(precision_hint="bf16"))


def test_a_gpu_computes_in_f32_unless_asked_otherwise(played: None, bundle: Bundle) -> None:
    target = OpenVinoTarget(bundle, TargetOptions(openvino_device="GPU", device=1))
    assert target._place == "GPU.1"
    assert target._config == {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    assert target.warnings == ()


def test_an_npu_computes_in_what_it_has_and_says_so(played: None, bundle: Bundle) -> None:
    target = OpenVinoTarget(bundle, TargetOptions(openvino_device="NPU"))
    assert target._config == {"PERFORMANCE_HINT": "LATENCY"}
    assert target.warnings == ("NPU computes in a precision of its own: it has FP16, INT8",)
    with pytest.raises(DeviceError, match="NPU does not compute in f32"):
        OpenVinoTarget(bundle, TargetOptions(openvino_device="NPU", precision_hint="f32"))


def test_another_precision_than_was_asked_for_is_found_out(bundle: Bundle) -> None:
    with closing(OpenVinoTarget(bundle, TargetOptions())) as target:
        compiled = SimpleNamespace(get_property=lambda _name: import_openvino().Type.f16)
        with pytest.raises(DeviceError, match=r"does not compute unet in f32 on its device CPU\nFound: .*float16"):
            target._check_precision("unet", compiled)


# ---- compiled networks on disk ----


def cached_target(bundle: Bundle, folder: Path, **options: Any) -> OpenVinoTarget:
    return OpenVinoTarget(bundle, TargetOptions(**{"threads": 1, "runtime_cache": folder, **options}))


def projected(target: OpenVinoTarget, bundle: Bundle, inputs: Any) -> npt.NDArray[Any]:
    with closing(target):
        sizes = {"R": 2}
        return outputs_of(target, bundle, "image_projection", sizes, inputs)["tokens"]


@pytest.fixture
def no_compiling(monkeypatch: pytest.MonkeyPatch) -> Any:
    """From its call on, compiling fails."""

    def refuse(*_: Any) -> None:
        raise AssertionError("compiled anew")

    return lambda: monkeypatch.setattr(OpenVinoTarget, "_compile", refuse)


def test_a_kept_network_is_not_compiled_again_and_gives_the_same_numbers(
    bundle: Bundle, tmp_path: Path, no_compiling: Any
) -> None:
    folder = tmp_path / "new" / "folder"
    _, inputs = inputs_of(bundle, "image_projection")
    first = projected(cached_target(bundle, folder), bundle, inputs)
    (file,) = folder.iterdir()
    assert file.name.startswith("image_projection-")
    no_compiling()
    target = cached_target(bundle, folder)
    assert compiled_properties(target)("INFERENCE_PRECISION_HINT") == import_openvino().Type.f32
    assert compiled_properties(target)("INFERENCE_NUM_THREADS") == 1
    np.testing.assert_array_equal(projected(target, bundle, inputs), first)


def test_whatever_changes_a_compiled_network_is_another_file(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contract, loop_contract = bundle.contracts["image_projection"], bundle.contracts["unet"]
    files = dict(bundle.manifest.files)
    files["onnx/image_projection.onnx"] = replace(files["onnx/image_projection.onnx"], sha256="0" * 64)
    retrained = Bundle(bundle.folder, replace(bundle.manifest, files=files))
    target = cached_target(bundle, tmp_path)
    names = [
        target._cache_name(contract, {}),
        target._cache_name(contract, {"R": 1}),
        target._cache_name(loop_contract, LOOP),
        target._cache_name(loop_contract, {**LOOP, "B": 2}),
        cached_target(retrained, tmp_path)._cache_name(contract, {}),
        cached_target(bundle, tmp_path, threads=None)._cache_name(contract, {}),
    ]
    for name in ("get_version", "Core"):
        with monkeypatch.context() as other:
            other.setattr(target._ov, name, PlayedCore if name == "Core" else lambda: "another")
            names.append(cached_target(bundle, tmp_path)._cache_name(contract, {}))
    with monkeypatch.context() as other:
        other.setattr(target._ov, "Core", PlayedCore)
        gpu = cached_target(bundle, tmp_path, threads=None, openvino_device="GPU")
        names.append(gpu._cache_name(contract, {}))
    assert len(set(names)) == len(names)
    assert cached_target(bundle, tmp_path)._cache_name(contract, {}) == names[0]


def test_a_damaged_file_is_compiled_anew(bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _, inputs = inputs_of(bundle, "image_projection")
    first = projected(cached_target(bundle, tmp_path), bundle, inputs)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], b""):
        file.write_bytes(damaged)
        caplog.clear()
        np.testing.assert_array_equal(projected(cached_target(bundle, tmp_path), bundle, inputs), first)
        assert "is damaged" in caplog.text
        assert cached_target(bundle, tmp_path)._cache.read(file.name) is not None


def test_a_folder_that_cannot_be_written_costs_no_request(
    bundle: Bundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        cached_target(bundle, tmp_path / "file").load("image_projection", {}).close()
    assert "not kept for the next start" in caplog.text


def test_without_a_folder_nothing_is_kept(bundle: Bundle) -> None:
    with closing(OpenVinoTarget(bundle, TargetOptions())) as target:
        assert target._cache is None
