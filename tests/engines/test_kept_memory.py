"""The estimate of device memory is what the runtime really keeps, byte by byte, on the stand-in driver."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("cuda.core", reason="needs cuda-core")

from instantrt import GenerateRequest, InstantID
from instantrt.bundle import Bundle
from instantrt.memory import RESERVE_BYTES, DeviceMemory, call_bytes, loop_bytes
from instantrt.network import MAX_SHAPES
from instantrt_engines.inspect import Sizes, inspect_bundle

if TYPE_CHECKING:
    from doubles.cuda_double import CudaDouble
    from doubles.tensorrt_double import TensorRTDouble

pytestmark = pytest.mark.gpu

TARGET, SIDE_PX = "tensorrt-rtx", 64
LARGEST = {"samples": 4, "guidance_scale": 5.0}
MOST_STEPS = [{"sampler": "heun", "steps": 100 - i} for i in range(MAX_SHAPES)]  # 199, 197, ... network calls


class Runs:
    """A pipeline whose networks write nothing, and how much device memory it keeps."""

    def __init__(self, pipeline: InstantID, cuda: CudaDouble, face: npt.NDArray[np.uint8], before: int) -> None:
        self._pipeline, self._cuda, self._face, self._before = pipeline, cuda, face, before

    def run(self, **fields: Any) -> None:
        self._pipeline.run(
            GenerateRequest(face=self._face, prompt="a person", seed=7, width=SIDE_PX, height=SIDE_PX, **fields)
        )

    def kept_bytes(self) -> int:
        gc.collect()
        self._pipeline._target.device.synchronize()
        return self._cuda.live()["device_bytes"] - self._before


@pytest.fixture
def runs(
    tensorrt_double: TensorRTDouble,
    cuda_double: CudaDouble,
    planned_bundle: Path,
    tmp_path: Path,
    astronaut: npt.NDArray[np.uint8],
) -> Iterator[Runs]:
    before = cuda_double.live()["device_bytes"]
    with InstantID.load(planned_bundle, target=TARGET, runtime_cache=tmp_path) as pipeline:
        tensorrt_double.no_ops = frozenset(pipeline.bundle.contracts) - {"face_detector", "face_encoder"}
        cuda_double.keep_log(False)
        yield Runs(pipeline, cuda_double, astronaut, before)


@pytest.fixture
def estimate(planned_bundle: Path) -> DeviceMemory:
    memory = inspect_bundle(Bundle.open(planned_bundle), TARGET, Sizes(4, 2, SIDE_PX, SIDE_PX)).memory
    assert memory is not None
    return memory


def skipped_bytes(bundle: Path) -> int:
    """The estimate has plans' eight largest numbers of network calls; no sampler makes every second one of them."""
    contract = Bundle.open(bundle).contracts["time_embedding"]

    def size(calls: int) -> int:
        return call_bytes(contract, "fp32", {"T": calls, "G": 2})

    return sum(size(199 - i) - size(199 - 2 * i) for i in range(MAX_SHAPES))


def test_one_shape_keeps_what_is_estimated(runs: Runs, estimate: DeviceMemory, planned_bundle: Path) -> None:
    for steps in MOST_STEPS:
        runs.run(**LARGEST, **steps)
    expected = estimate.one_shape_needed_bytes("resident") - RESERVE_BYTES - skipped_bytes(planned_bundle)
    assert runs.kept_bytes() == expected


def test_all_kept_shapes_keep_what_is_estimated_and_no_request_takes_more(
    runs: Runs, estimate: DeviceMemory, planned_bundle: Path
) -> None:
    contracts = [c for c in Bundle.open(planned_bundle).contracts.values() if c.stage == "denoise"]
    shapes = [{"B": b, "G": g, "H": SIDE_PX, "W": SIDE_PX} for b, g in product((1, 2, 3, 4), (1, 2))]
    for shape in sorted(shapes, key=lambda shape: loop_bytes(contracts, "fp32", shape)):
        runs.run(samples=shape["B"], guidance_scale=5.0 if shape["G"] == 2 else 1.0, steps=4)
        assert runs.kept_bytes() <= estimate.needed_bytes("resident") - RESERVE_BYTES
    for steps in MOST_STEPS:
        runs.run(**LARGEST, **steps)
    most = estimate.needed_bytes("resident") - RESERVE_BYTES - skipped_bytes(planned_bundle)
    assert runs.kept_bytes() == most
    for shape in shapes:
        runs.run(samples=shape["B"], guidance_scale=5.0 if shape["G"] == 2 else 1.0, steps=30)
        assert runs.kept_bytes() <= most
