"""ONNX Runtime's CUDA provider as a target: what it refuses, and how its sessions run.

Whole requests through it are in test_tensorrt_pipeline.py. Runs on a GPU with onnxruntime-gpu, and on the doubles above
the stand-in driver.
"""

from __future__ import annotations

import inspect
import shutil
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

pytest.importorskip("cuda.core", reason="needs cuda-core")

from instantrt.bundle import Bundle, write_manifest
from instantrt.cli import main
from instantrt.engine import ONNXRUNTIME_CUDA, TargetOptions
from instantrt.engine.onnxruntime_cuda import OnnxRuntimeCudaTarget, import_onnxruntime_gpu
from instantrt.errors import BundleError, EngineError, MissingExtraError, RequestError, WheelError
from instantrt.network import Network
from instantrt.plan import PlanError
from instantrt.targets import open_target
from randomness import fresh_rng

if TYPE_CHECKING:
    from doubles.cuda_double import CudaDouble
    from doubles.onnxruntime_cuda_double import OnnxRuntimeCudaDouble

pytestmark = pytest.mark.gpu
LOOP = {"B": 1, "G": 2, "H": 64, "W": 64}


@pytest.fixture
def bundle(planned_bundle: Path) -> Bundle:
    return Bundle.open(planned_bundle)


@pytest.fixture
def target(executing_graphs: None, bundle: Bundle) -> Iterator[OnnxRuntimeCudaTarget]:
    with closing(OnnxRuntimeCudaTarget(bundle, TargetOptions())) as opened:
        yield opened


def test_it_cannot_be_captured_and_says_so(target: OnnxRuntimeCudaTarget) -> None:
    assert not target.capturable
    with closing(target.load("image_projection", {})) as engine, pytest.raises(EngineError, match="captured") as error:
        engine.warm_up(target.device.stream, capture=True)
    assert "eager" in str(error.value)


def test_loops_may_not_fall_back_to_the_cpu(
    target: OnnxRuntimeCudaTarget, onnxruntime_cuda_double: OnnxRuntimeCudaDouble
) -> None:
    for network, symbols in (("unet", LOOP), ("identitynet", LOOP), ("text_encoder", {})):
        target.load(network, symbols).close()
    assert onnxruntime_cuda_double.no_fallback == [True, True, False]


def test_a_run_puts_its_work_on_the_stream_and_waits_for_nothing(
    target: OnnxRuntimeCudaTarget,
    onnxruntime_cuda_double: OnnxRuntimeCudaDouble,
    cuda_double: CudaDouble,
    bundle: Bundle,
) -> None:
    with closing(Network(target, bundle.contracts["image_projection"], "fp32")) as network:
        embedding = fresh_rng().standard_normal((1, bundle.dims.face_embedding_width)).astype(np.float32)
        network.run({"embedding": embedding})
        target.device.synchronize()
        runs = onnxruntime_cuda_double.runs
        cuda_double.clear_log()
        network.run({"embedding": embedding})
        assert cuda_double.count("cuStreamSynchronize") == cuda_double.count("cuEventSynchronize") == 0
        target.device.synchronize()
        assert onnxruntime_cuda_double.runs == runs + 1


def test_weights_in_a_file_of_their_own_are_found(executing_graphs: None, bundle: Bundle, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.folder, tmp_path / "bundle"))
    path = folder / "onnx" / "image_projection.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location=f"{path.name}.data")
    write_manifest(folder, replace(bundle.manifest, networks={"image_projection": "onnx/image_projection.onnx"}))
    assert main(["build", str(folder), "--target", ONNXRUNTIME_CUDA]) == 0
    separate = Bundle.open(folder)
    embedding = fresh_rng().standard_normal((2, bundle.dims.face_embedding_width)).astype(np.float32)
    found = []
    for opened in (separate, bundle):
        with (
            closing(OnnxRuntimeCudaTarget(opened, TargetOptions())) as target,
            closing(Network(target, opened.contracts["image_projection"], "fp32")) as network,
        ):
            found.append(network({"embedding": embedding})["tokens"])
    np.testing.assert_array_equal(*found)
    path.with_name(f"{path.name}.data").write_bytes(b"")
    with closing(OnnxRuntimeCudaTarget(separate, TargetOptions())) as target, pytest.raises(BundleError):
        target.load("image_projection", {})


def test_what_a_target_lacks_is_an_error(target: OnnxRuntimeCudaTarget, bundle: Bundle) -> None:
    with pytest.raises(RequestError, match="exported for"):
        target.load("unet", {**LOOP, "B": 99})
    assert not target.accepts("unet", {**LOOP, "B": 99})
    with pytest.raises(RequestError, match="has no option threads"):
        open_target(ONNXRUNTIME_CUDA, bundle, TargetOptions(threads=2))


def test_a_bundle_without_graphs_says_which_command_makes_them(
    executing_graphs: None, bundle: Bundle, tmp_path: Path
) -> None:
    shutil.copytree(bundle.folder, tmp_path / "bundle", ignore=shutil.ignore_patterns("plans"))
    with pytest.raises(PlanError, match=r"instantrt build .* --target onnxruntime-cuda"):
        OnnxRuntimeCudaTarget(Bundle.open(tmp_path / "bundle"), TargetOptions())


def test_a_failing_run_is_an_error_of_ours(target: OnnxRuntimeCudaTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any) -> None:
        raise RuntimeError("out of memory")

    with closing(target.load("image_projection", {})) as engine:
        monkeypatch.setattr(engine._session, "run_with_iobinding", run, raising=False)
        with pytest.raises(EngineError, match="cannot execute image_projection"):
            engine.enqueue(target.device.stream)
        engine.close()
        engine.close()


# ---- which onnxruntime ----


def test_an_onnxruntime_without_cuda_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu_only = SimpleNamespace(__version__="1.32.0", get_available_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setitem(sys.modules, "onnxruntime", cpu_only)
    with pytest.raises(WheelError, match="pip uninstall onnxruntime onnxruntime-gpu"):
        import_onnxruntime_gpu()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"instantrt\[cuda\]"):
        import_onnxruntime_gpu()


def test_an_older_onnxruntime_than_the_kernels_is_refused(
    onnxruntime_cuda_double: OnnxRuntimeCudaDouble, bundle: Bundle
) -> None:
    onnxruntime_cuda_double.module.__version__ = "1.30.4"
    with pytest.raises(WheelError, match="older"):
        OnnxRuntimeCudaTarget(bundle, TargetOptions())


def test_the_double_has_the_signatures_of_the_real_sessions() -> None:
    import onnxruntime

    from doubles.onnxruntime_cuda_double import CudaBinding, CudaSession, OnnxRuntimeCudaDouble

    for ours, real in (
        (OnnxRuntimeCudaDouble._session, onnxruntime.InferenceSession.__init__),
        (CudaSession.run_with_iobinding, onnxruntime.InferenceSession.run_with_iobinding),
        (CudaBinding.bind_input, onnxruntime.IOBinding.bind_input),
        (CudaBinding.bind_output, onnxruntime.IOBinding.bind_output),
    ):
        expected = list(inspect.signature(real).parameters)
        named = list(inspect.signature(ours).parameters)
        assert named == expected[: len(named)]
