"""What can fail on the device made to fail in turn: one clear error, nothing left, and the next request works."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("cuda.core", reason="needs cuda-core")

from instantrt import GenerateRequest, InstantID
from instantrt.errors import DeviceError, EngineError

if TYPE_CHECKING:
    from doubles.cuda_double import CudaDouble
    from doubles.tensorrt_double import TensorRTDouble

pytestmark = pytest.mark.gpu

OUT_OF_MEMORY, LAUNCH_FAILED = 2, 719

# Driver functions that allocate, create or launch, as a request calls them, with the error that each is made to return.
ALLOCATIONS = (
    "cuMemPoolCreate",
    "cuMemAllocFromPoolAsync",
    "cuMemAllocHost",
    "cuMemsetD8Async",
    "cuStreamCreateWithPriority",
    "cuEventCreate",
    "cuGraphInstantiate",
)
LAUNCHES = (
    "cuGraphLaunch",
    "cuLaunchHostFunc",
    "cuMemcpyAsync",
    "cuEventRecord",
    "cuGraphUpload",
    "cuStreamBeginCapture",
)
EVERY_CALL = {"cuMemAllocFromPoolAsync", "cuMemAllocHost", "cuGraphLaunch", "cuLaunchHostFunc"}
AT_MOST = 5  # calls of each other name that fail, spread over all that a request makes


@pytest.fixture
def run(
    tensorrt_double: TensorRTDouble, planned_bundle: Path, tmp_path: Path, astronaut: npt.NDArray[np.uint8]
) -> Callable[[], npt.NDArray[np.float32]]:
    """Load the bundle, make a picture, close; gives the latents."""
    request = GenerateRequest(face=astronaut, prompt="a person", steps=4, width=64, height=64, seed=7)

    def run_once() -> npt.NDArray[np.float32]:
        with InstantID.load(planned_bundle, target="tensorrt-rtx", runtime_cache=tmp_path) as pipeline:
            return pipeline.run(request).latents

    return run_once


@pytest.mark.parametrize(
    ("name", "error"),
    [*((name, OUT_OF_MEMORY) for name in ALLOCATIONS), *((name, LAUNCH_FAILED) for name in LAUNCHES)],
)
def test_each_call_failing_in_turn_gives_one_error_and_leaves_nothing(
    run: Callable[[], npt.NDArray[np.float32]],
    cuda_double: CudaDouble,
    tensorrt_double: TensorRTDouble,
    name: str,
    error: int,
) -> None:
    before = cuda_double.live()
    expected = run()
    calls = cuda_double.count(name)
    assert calls > 0, f"a request does not call {name}"
    tensorrt_double.no_ops = frozenset(tensorrt_double.sources_by_network) - {"face_detector", "face_encoder"}
    failing = calls if name in EVERY_CALL else min(calls, AT_MOST)
    for nth in sorted({round(n) for n in np.linspace(1, calls, failing)}):
        cuda_double.fail(name, nth, error)
        with pytest.raises((DeviceError, EngineError)) as raised:
            run()
        assert raised.value.found
        assert raised.value.hint
        del raised  # its traceback holds what was being made
        gc.collect()
        assert cuda_double.live() == before, f"{name}, call {nth}"
        cuda_double.reset()
    tensorrt_double.no_ops = frozenset()
    np.testing.assert_array_equal(run(), expected)


def test_a_gpu_that_is_too_small_is_said_so_whatever_does_not_fit(
    run: Callable[[], npt.NDArray[np.float32]], cuda_double: CudaDouble, tensorrt_double: TensorRTDouble
) -> None:
    before = cuda_double.live()
    expected = run()
    records = [source.record for source in tensorrt_double.sources.values()]
    weights = sum(record.weight_bytes or 0 for record in records)
    arena = max(max(record.activation_bytes) for record in records)
    for limit, message in (
        (1 << 20, "TensorRT cannot load the plan"),
        (weights + (1 << 20), r"allocating .* MiB"),  # of the arena
        (weights + arena + (1 << 20), r"allocating .* MiB"),  # of the loop's buffers
    ):
        cuda_double.limit_memory(before["device_bytes"] + limit)
        with pytest.raises((DeviceError, EngineError), match=message) as raised:
            run()
        if isinstance(raised.value, DeviceError):
            assert raised.value.driver_code == "CUDA_ERROR_OUT_OF_MEMORY"
        assert "memory" in str(raised.value.hint)
        del raised
        gc.collect()
        assert cuda_double.live() == before
        cuda_double.reset()
    np.testing.assert_array_equal(run(), expected)


def test_a_failure_in_the_loop_reaches_the_caller_and_closing_still_works(
    tensorrt_double: TensorRTDouble,
    cuda_double: CudaDouble,
    planned_bundle: Path,
    tmp_path: Path,
    astronaut: npt.NDArray[np.uint8],
) -> None:
    request = GenerateRequest(face=astronaut, prompt="a person", steps=30, width=64, height=64, seed=7)
    pipeline = InstantID.load(planned_bundle, target="tensorrt-rtx", runtime_cache=tmp_path)
    told: list[int] = []

    def fail_on_the_third(done: int, _calls: int) -> None:
        told.append(done)
        if done == 3:
            cuda_double.fail("cuGraphLaunch", 1, LAUNCH_FAILED)

    with pytest.raises(DeviceError, match="launching a graph failed"):
        pipeline.run(request, progress=fail_on_the_third)
    assert told[:3] == [1, 2, 3]
    pipeline.close()
    pipeline.close()
