"""Weights by stage: the same pictures with less memory, counted in bytes on the stand-in driver."""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("cuda.core", reason="needs cuda-core")

from instantrt import CancelledError, GenerateRequest, InstantID, RequestError
from instantrt.bundle import Bundle
from instantrt.denoise import LoopShape
from instantrt.errors import DeviceError
from instantrt.memory import RESERVE_BYTES, DeviceMemory
from instantrt.plan import read_record, write_record
from instantrt_engines.inspect import Sizes, inspect_bundle

if TYPE_CHECKING:
    from doubles.cuda_double import CudaDouble
    from doubles.tensorrt_double import TensorRTDouble

pytestmark = pytest.mark.gpu

TARGET, SIDE_PX = "tensorrt-rtx", 64
ALWAYS = {"control_embedding", "time_embedding", "cross_attention", "identitynet", "unet", "vae_decoder"}

Load = Callable[..., InstantID]


@pytest.fixture
def load(executing: None, planned_bundle: Path, tmp_path: Path) -> Iterator[Load]:
    """Loads the bundle with a residency; closes it in the end."""
    opened = []

    def loaded(residency: str, **options: Any) -> InstantID:
        opened.append(
            InstantID.load(
                planned_bundle,
                target=TARGET,
                runtime_cache=tmp_path,
                residency=residency,  # type: ignore[arg-type]
                **options,
            )
        )
        return opened[-1]

    yield loaded
    for pipeline in opened:
        pipeline.close()


@pytest.fixture
def request_of(astronaut: npt.NDArray[np.uint8]) -> Callable[..., GenerateRequest]:
    def make(**fields: Any) -> GenerateRequest:
        defaults = {"face": astronaut, "prompt": "a person", "steps": 4, "seed": 5}
        return GenerateRequest(**{**defaults, "width": SIDE_PX, "height": SIDE_PX, **fields})

    return make


@pytest.fixture
def estimate(planned_bundle: Path) -> DeviceMemory:
    memory = inspect_bundle(Bundle.open(planned_bundle), TARGET, Sizes(1, 2, SIDE_PX, SIDE_PX)).memory
    assert memory is not None
    return memory


def test_requests_give_the_same_pictures_whatever_stays_loaded(load: Load, request_of: Any) -> None:
    resident, staged = load("resident"), load("staged")
    for fields in ({}, {"samples": 3}, {"prompt": "a statue", "guidance_scale": 1.0}, {}, {"seed": 6}):
        expected, found = (pipeline.run(request_of(**fields)) for pipeline in (resident, staged))
        np.testing.assert_array_equal(found.latents, expected.latents)
        np.testing.assert_array_equal(found.pixels, expected.pixels)


def test_several_batches_load_every_stage_once(
    load: Load, request_of: Any, monkeypatch: pytest.MonkeyPatch, tensorrt_double: TensorRTDouble
) -> None:
    shape = LoopShape(2, 2, SIDE_PX, SIDE_PX)  # as with plans for two slots
    monkeypatch.setattr(InstantID, "_shape", lambda *_: shape)
    request, told = request_of(samples=3), list[tuple[int, int]]()
    expected = load("resident").run(request, keep_latents=True)
    staged = load("staged")
    tensorrt_double.deserialized.clear()
    found = staged.run(request, keep_latents=True, progress=lambda *done: told.append(done))
    assert tensorrt_double.deserialized.count("unet") == tensorrt_double.deserialized.count("vae_decoder") == 1
    assert told == [(done, 8) for done in range(1, 9)]
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    assert found.latents_per_call is not None
    assert expected.latents_per_call is not None
    np.testing.assert_array_equal(found.latents_per_call, expected.latents_per_call)
    np.testing.assert_array_equal(found.latents_per_call[-1], found.latents)


def test_the_peak_is_what_was_estimated_and_below_that_of_resident_weights(
    load: Load,
    request_of: Any,
    estimate: DeviceMemory,
    cuda_double: CudaDouble,
    tensorrt_double: TensorRTDouble,
    astronaut: npt.NDArray[np.uint8],
) -> None:
    tensorrt_double.no_ops = frozenset(tensorrt_double.sources_by_network) - {"face_detector", "face_encoder"}
    cuda_double.keep_log(False)
    peaks, unused = {}, {}
    for residency in ("resident", "staged"):
        before = cuda_double.live()["device_bytes"]
        cuda_double.peak_bytes()
        pipeline = load(residency)
        for number in range(3):  # nothing is remembered but the buffers: all networks run every time
            face = np.ascontiguousarray(astronaut[:, : 512 - number])
            pipeline.run(request_of(face=face, prompt=f"picture {number}", sampler="heun", steps=100 - number))
        peaks[residency] = cuda_double.peak_bytes() - before
        promised = estimate.one_shape_needed_bytes(residency) - RESERVE_BYTES  # type: ignore[arg-type]
        unused[residency] = promised - peaks[residency]
        pipeline.close()
        gc.collect()
    # Promised are buffers for eight numbers of steps; test_kept_memory.py uses them all, here three are.
    assert unused["resident"] == unused["staged"] > 0
    saved = sum(estimate.weights.values()) + estimate.arena_bytes
    saved -= max(estimate.weights[stage] + estimate.activations[stage] for stage in estimate.weights)
    assert peaks["resident"] - peaks["staged"] == saved > 0


def test_only_what_a_request_needs_is_loaded_and_only_one_stage_stays(
    load: Load, request_of: Any, tensorrt_double: TensorRTDouble, cuda_double: CudaDouble, estimate: DeviceMemory
) -> None:
    staged = load("staged")
    assert tensorrt_double.deserialized == []
    staged.run(request_of())
    assert set(tensorrt_double.deserialized) == set(staged.bundle.contracts)
    assert len(tensorrt_double.deserialized) == len(staged.bundle.contracts)
    tensorrt_double.deserialized.clear()
    staged.run(request_of(seed=9))
    assert set(tensorrt_double.deserialized) == ALWAYS, "text and face are remembered"
    assert set(staged._target._engines.loaded) == {"vae_decoder"}  # type: ignore[attr-defined]


def test_a_graph_is_captured_anew_with_its_contexts_and_kernels_are_not_compiled_again(
    load: Load, request_of: Any, tensorrt_double: TensorRTDouble, cuda_double: CudaDouble
) -> None:
    staged = load("staged")
    staged.run(request_of())
    compiled = list(tensorrt_double.compiled)
    for _ in range(2):
        cuda_double.clear_log()
        staged.run(request_of())
        made = sum(entry.name.startswith("cuGraphInstantiate") for entry in cuda_double.calls())
        assert made == 1
        assert cuda_double.live()["graph_execs"] == 0, "the graph goes before the contexts that it captured"
    assert tensorrt_double.compiled == compiled


def test_loading_has_a_time_of_its_own(load: Load, request_of: Any) -> None:
    staged, resident = load("staged"), load("resident")
    for _ in range(2):
        ms, resident_ms = (p.run(request_of()).timings.stages_ms for p in (staged, resident))
        assert set(ms) == set(resident_ms)
        assert min(ms.values()) >= 0
    assert ms["load"] > resident_ms["load"], "a request that finds everything loaded loads nothing"


def test_a_cancelled_request_leaves_the_next_one_right(load: Load, request_of: Any) -> None:
    staged = load("staged")
    expected = staged.run(request_of(steps=9)).latents
    told: list[int] = []
    with pytest.raises(CancelledError):
        staged.run(request_of(steps=9), progress=lambda n, _: told.append(n), cancelled=lambda: len(told) > 2)
    np.testing.assert_array_equal(staged.run(request_of(steps=9)).latents, expected)


def test_running_out_of_memory_in_a_stage_leaves_the_next_request_right(
    load: Load, request_of: Any, cuda_double: CudaDouble
) -> None:
    staged = load("staged")
    expected = staged.run(request_of()).latents
    room = cuda_double.live()["device_bytes"] + 1000
    cuda_double.limit_memory(room)
    with pytest.raises(Exception, match=r"memory|residency"):
        staged.run(request_of())
    cuda_double.limit_memory(8 << 30)
    np.testing.assert_array_equal(staged.run(request_of()).latents, expected)


@pytest.mark.parametrize("expected", ["resident", "staged", None])
def test_auto_takes_what_fits_and_says_so(
    load: Load, request_of: Any, cuda_double: CudaDouble, estimate: DeviceMemory, expected: str | None
) -> None:
    needed = {name: estimate.needed_bytes(name) for name in ("resident", "staged")}  # type: ignore[arg-type]
    assert needed["staged"] < needed["resident"]
    free = needed[expected] if expected else needed["staged"] - 1
    cuda_double.limit_memory(cuda_double.live()["device_bytes"] + free)
    if expected is None:
        with pytest.raises(DeviceError, match="more memory than the GPU has free") as raised:
            load("auto")
        assert "needed at most: resident" in str(raised.value)
        return
    pipeline = load("auto")
    assert pipeline._target.residency == expected
    warnings = " ".join(pipeline.run(request_of()).warnings)
    assert ("stage by stage" in warnings) == (expected == "staged")


def test_streaming_needs_plans_for_it_and_auto_no_budget(load: Load) -> None:
    with pytest.raises(RequestError, match="no plan of this bundle was built for weight streaming"):
        load("streaming")
    with pytest.raises(RequestError, match="auto decides on a weight budget itself"):
        load("auto", weight_budget_bytes=1)


def test_plans_that_stream_weights_get_a_budget_from_the_free_memory_and_run_without_a_graph(
    load: Load,
    planned_bundle: Path,
    tmp_path: Path,
    request_of: Any,
    tensorrt_double: TensorRTDouble,
    cuda_double: CudaDouble,
) -> None:
    expected = load("resident").run(request_of()).latents
    streaming = shutil.copytree(planned_bundle, tmp_path / "bundle", copy_function=lambda a, b: Path(b).hardlink_to(a))
    for name in Bundle.open(streaming).contracts:
        record = read_record(streaming, TARGET, name)
        options = record.identity.options | {"weight_streaming": True}
        write_record(streaming, replace(record, identity=replace(record.identity, options=options)))
    tensorrt_double.know(Bundle.open(streaming), TARGET)
    memory = inspect_bundle(Bundle.open(streaming), TARGET, Sizes(1, 2, SIDE_PX, SIDE_PX)).memory
    assert memory is not None
    assert memory.needed_bytes("streaming") < memory.needed_bytes("staged")
    free = memory.needed_bytes("staged") - 1
    before = cuda_double.live()["device_bytes"]
    cuda_double.limit_memory(before + free)
    cuda_double.peak_bytes()
    cuda_double.clear_log()
    with InstantID.load(streaming, target=TARGET, runtime_cache=tmp_path, residency="auto") as pipeline:
        assert pipeline._target.residency == "streaming"
        result = pipeline.run(request_of())
        budget = {e.weight_streaming_budget_v2 for e in pipeline._target._engines.loaded.values()}  # type: ignore[attr-defined]
    assert max(budget) == memory.weight_budget_bytes(free)
    np.testing.assert_array_equal(result.latents, expected)
    assert "copied to the GPU while networks run" in " ".join(result.warnings)
    assert cuda_double.count("cuGraphLaunch") == 0
    assert cuda_double.peak_bytes() - before <= free - RESERVE_BYTES
