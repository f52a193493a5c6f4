"""Requests on GPUs: the same latents as on the CPU; TensorRT through one captured graph per shape and nothing else.

Runs on a GPU, and on the doubles above the stand-in driver (test_on_the_cuda_double.py). Tests that read the driver's
log need the latter.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from randomness import fresh_rng

pytest.importorskip("cuda.core", reason="needs cuda-core")

from instantrt import CancelledError, GenerateRequest, InstantID
from instantrt.bundle import Bundle
from instantrt.denoise import IN_FLIGHT, MAX_LOOPS

if TYPE_CHECKING:
    from doubles.cuda_double import CudaDouble, Entry
    from doubles.tensorrt_double import TensorRTDouble

pytestmark = pytest.mark.gpu

SAMPLERS = ("euler", "ddim", "dpmpp_2m_sde_karras")
MATRIX = list(product((4, 10, 100), (1.0, 5.0), (1, 4), SAMPLERS, (True, False)))
# With 4 steps all of one sampler and every second one of the others, six with 10, one per sampler with 100. The rest is
# slow.
COVERING = [
    *(case for case in MATRIX if case[0] == 4 and (case[3] == "euler" or case[4] == (case[2] == 4))),
    *(case for case in MATRIX if case[0] == 10 and (case[1] > 1) == (case[2] == 4) == case[4]),
    (100, 1.0, 1, "euler", True),
    (100, 1.0, 1, "ddim", False),
    (100, 5.0, 1, "dpmpp_2m_sde_karras", True),
]

TOLERANCE_GPU = 5e-3  # kernels of another library
# Of the same graphs; of rewritten ones; of torch modules.
TOLERANCE_DOUBLE = {"tensorrt-rtx": 1e-6, "onnxruntime-cuda": 1e-4, "torch": 1e-4}

ALLOWED_IN_LOOP = {"cuGraphLaunch", "cuEventRecord", "cuEventQuery", "cuCtxSetCurrent", "cuCtxGetCurrent"}


@pytest.fixture
def request_of(astronaut: npt.NDArray[np.uint8]) -> Any:
    def make(**fields: Any) -> GenerateRequest:
        seed = int(fresh_rng().integers(10**15))
        defaults = {"face": astronaut, "prompt": "portrait photo of a person", "width": 64, "height": 64, "steps": 4}
        return GenerateRequest(**{**defaults, "seed": seed, **fields})

    return make


# What executes on a GPU, and the fixture that says whether it can here.
EXECUTING = {"tensorrt-rtx": "executing", "onnxruntime-cuda": "executing_graphs", "torch": "executing_modules"}
captured = pytest.mark.parametrize("pipeline", ["tensorrt-rtx", "torch"], indirect=True)  # tests of what is captured
planned = pytest.mark.parametrize("pipeline", ["tensorrt-rtx"], indirect=True)  # and of what only plans do


@pytest.fixture(params=EXECUTING)
def pipeline(request: pytest.FixtureRequest, planned_bundle: Path, tmp_path: Path) -> Iterator[InstantID]:
    executing = request.getfixturevalue(EXECUTING[request.param])
    if request.param == "torch":
        with InstantID(Bundle.open(planned_bundle), executing) as loaded:
            yield loaded
        return
    options = {"runtime_cache": tmp_path} if request.param == "tensorrt-rtx" else {}
    with InstantID.load(planned_bundle, target=request.param, **options) as loaded:
        yield loaded


@pytest.fixture
def on_cpu(planned_bundle: Path) -> Iterator[InstantID]:
    with InstantID.load(planned_bundle, threads=1) as loaded:
        yield loaded


def relative_error(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def graphs_made(double: CudaDouble) -> int:
    return sum(entry.name.startswith("cuGraphInstantiate") for entry in double.calls())


def compare(pipeline: InstantID, on_cpu: InstantID, request_of: Any, cases: list[Any]) -> None:
    from doubles.cuda_double import CudaDouble

    double = CudaDouble.loaded()
    if double is not None and pipeline._target.name != "tensorrt-rtx":
        cases = cases[::9]  # without a GPU a few tell whether graphs and modules are bound right
    tolerance = TOLERANCE_GPU if double is None else TOLERANCE_DOUBLE[pipeline._target.name]
    shapes = set()
    for steps, guidance, samples, sampler, mask in cases:
        request = request_of(
            steps=steps, guidance_scale=guidance, samples=samples, sampler=sampler, enhance_face_region=mask
        )
        expected, found = on_cpu.run(request), pipeline.run(request)
        error = relative_error(found.latents, expected.latents)
        assert error <= tolerance, f"{error:.1e} for {steps, guidance, samples, sampler, mask}, seed {request.seed}"
        assert np.isfinite(found.latents).all()
        shapes.add((samples, guidance > 1))
    if double is not None:
        assert graphs_made(double) == len(shapes) * pipeline._target.capturable


def test_latents_are_those_of_the_cpu_through_one_graph_per_shape(
    pipeline: InstantID, on_cpu: InstantID, request_of: Any
) -> None:
    compare(pipeline, on_cpu, request_of, COVERING)


@pytest.mark.slow
def test_latents_are_those_of_the_cpu_over_the_whole_matrix(
    pipeline: InstantID, on_cpu: InstantID, request_of: Any
) -> None:
    compare(pipeline, on_cpu, request_of, MATRIX)


def test_pictures_are_those_of_the_cpu(pipeline: InstantID, on_cpu: InstantID, request_of: Any) -> None:
    request = request_of(samples=3)
    found, expected = pipeline.run(request).pixels, on_cpu.run(request).pixels
    assert found.shape == (3, 64, 64, 3)
    assert np.abs(found.astype(int) - expected).max() <= 2
    assert not np.array_equal(found[0], found[1])


def loop_calls(double: CudaDouble) -> list[list[Entry]]:
    """The driver calls of the last loop, cut at each launch: what follows it until the next."""
    calls = double.calls()
    launches = [index for index, entry in enumerate(calls) if entry.name == "cuGraphLaunch"]
    return [calls[a:b] for a, b in pairwise(launches)]


@captured
@pytest.mark.parametrize(("steps", "sampler", "calls"), [(4, "euler", 4), (30, "ddim", 30), (20, "heun", 39)])
def test_a_step_is_one_launch_and_nothing_else(
    pipeline: InstantID, cuda_double: CudaDouble, request_of: Any, steps: int, sampler: str, calls: int
) -> None:
    pipeline.run(request_of())
    cuda_double.clear_log()
    pipeline.run(request_of(steps=steps, sampler=sampler))
    assert cuda_double.count("cuGraphLaunch") == calls
    for between in loop_calls(cuda_double):
        names = Counter(entry.name for entry in between)
        assert names["cuGraphLaunch"] == 1
        assert names["cuEventRecord"] == 1
        assert set(names) <= ALLOWED_IN_LOOP


@captured
def test_a_graph_holds_two_executions_and_three_copies_between_buffers(
    pipeline: InstantID, cuda_double: CudaDouble, request_of: Any
) -> None:
    cuda_double.clear_log()
    pipeline.run(request_of(steps=4))
    inside = [entry for entry in cuda_double.runs() if entry.members.get("graph")]
    assert [entry.name for entry in inside] == (["host function"] * 2 + ["copy DtoD"] * 3) * 4


@planned
def test_uploads_come_before_the_loop_and_one_download_after_it(
    pipeline: InstantID, cuda_double: CudaDouble, request_of: Any
) -> None:
    request = request_of(steps=6)
    pipeline.run(request)
    cuda_double.clear_log()
    pipeline.run(replace(request, seed=1))
    names = [entry.name for entry in cuda_double.runs()]
    inside = [i for i, entry in enumerate(cuda_double.runs()) if entry.members.get("graph")]
    assert "copy HtoD" not in names[inside[0] :]
    assert "copy DtoH" not in names[: inside[-1]]
    assert names[inside[-1] :].count("copy DtoH") == 3  # pixels, their magnitude and latents, fetched together
    assert cuda_double.count("cuStreamSynchronize") == 1


@planned
def test_prompts_and_faces_that_come_again_are_remembered(
    pipeline: InstantID, tensorrt_double: TensorRTDouble, request_of: Any, astronaut: npt.NDArray[np.uint8]
) -> None:
    request = request_of(negative_prompt="blurry")
    pipeline.run(request)
    always = {"control_embedding", "time_embedding", "cross_attention", "identitynet", "unet", "vae_decoder"}
    for change, extra in (
        ({}, set()),
        ({"seed": 5, "sampler": "ddim"}, set()),
        ({"prompt": "a statue"}, {"text_encoder", "text_encoder_2"}),
        ({"face": np.ascontiguousarray(astronaut[:, :500])}, {"face_detector", "face_encoder", "image_projection"}),
    ):
        tensorrt_double.executed.clear()
        pipeline.run(replace(request, **change))
        assert set(tensorrt_double.executed) == always | extra, list(change)


def test_remembering_changes_no_latents(pipeline: InstantID, request_of: Any) -> None:
    request = request_of(negative_prompt="blurry")
    first = pipeline.run(request).latents
    pipeline.run(request_of(prompt="another"))
    np.testing.assert_array_equal(pipeline.run(request).latents, first)


def test_stage_and_step_times_come_from_events(pipeline: InstantID, request_of: Any) -> None:
    timings = pipeline.run(request_of(steps=7, samples=2)).timings
    assert len(timings.call_ms) == len(timings.overhead_us) == 7
    assert min(timings.call_ms) > 0
    assert {"photo", "face", "load", "text", "conditioning", "noise", "upload", "denoise", "decode", "download"} <= set(
        timings.stages_ms
    )
    assert sum(timings.call_ms) == pytest.approx(timings.stages_ms["denoise"], rel=0.2)


def test_progress_is_told_in_order_and_reaches_the_end(pipeline: InstantID, request_of: Any) -> None:
    told: list[tuple[int, int]] = []
    pipeline.run(request_of(steps=9), progress=lambda *p: told.append(p))
    assert told == [(i, 9) for i in range(1, 10)]


@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_cancelled_request_stops_within_the_window_and_leaves_the_rest_right(
    pipeline: InstantID, request_of: Any, after: int
) -> None:
    from doubles.cuda_double import CudaDouble

    request = request_of(steps=30)
    expected = pipeline.run(request).latents
    double = CudaDouble.loaded()
    if double:
        double.clear_log()
    told: list[int] = []
    with pytest.raises(CancelledError, match=f"of {30} calls done"):
        pipeline.run(request, progress=lambda done, _: told.append(done), cancelled=lambda: len(told) >= after)
    assert after <= len(told) <= after + IN_FLIGHT
    if double:
        assert double.count("cuGraphLaunch") <= len(told) + IN_FLIGHT
    np.testing.assert_array_equal(pipeline.run(request).latents, expected)


@captured
def test_at_most_so_many_calls_are_unfinished(pipeline: InstantID, cuda_double: CudaDouble, request_of: Any) -> None:
    cuda_double.clear_log()
    pipeline.run(request_of(steps=25))
    unfinished = most = 0
    for entry in cuda_double.log():
        if entry.name == "cuGraphLaunch":
            unfinished += 1
            most = max(most, unfinished)
        elif entry.type == "run" and entry.name == "copy DtoD" and entry.members.get("bytes") == 4:
            unfinished -= 1  # the copy of the step counter ends a call
    assert 1 < most <= IN_FLIGHT


@planned
def test_without_capture_every_step_is_put_on_the_stream_anew(
    executing: None, planned_bundle: Path, tmp_path: Path, pipeline: InstantID, request_of: Any
) -> None:
    from doubles.cuda_double import CudaDouble

    request = request_of(steps=5)
    expected = pipeline.run(request).latents
    double = CudaDouble.loaded()
    if double:
        double.clear_log()
    with InstantID.load(planned_bundle, target="tensorrt-rtx", runtime_cache=tmp_path, eager=True) as eager:
        np.testing.assert_array_equal(eager.run(request).latents, expected)
    if double:
        assert graphs_made(double) == double.count("cuGraphLaunch") == 0


@captured
def test_only_the_latest_shapes_keep_their_graphs(
    pipeline: InstantID, cuda_double: CudaDouble, request_of: Any
) -> None:
    for samples, guidance in product((1, 2, 3, 4), (1.0, 5.0)):
        pipeline.run(request_of(samples=samples, guidance_scale=guidance))
        assert cuda_double.live()["graph_execs"] <= MAX_LOOPS
    assert graphs_made(cuda_double) == 8


@planned
def test_five_hundred_requests_grow_neither_host_nor_device_memory(
    pipeline: InstantID,
    tensorrt_double: TensorRTDouble,
    cuda_double: CudaDouble,
    request_of: Any,
    astronaut: npt.NDArray[np.uint8],
) -> None:
    # Faces must be found; the other networks may write nothing.
    tensorrt_double.no_ops = frozenset(pipeline.bundle.contracts) - {"face_detector", "face_encoder"}
    cuda_double.keep_log(False)
    photos = [np.ascontiguousarray(astronaut[:, : 512 - i]) for i in range(3)]
    live, resident = [], []
    for number in range(500):
        request = request_of(
            face=photos[number % 3],
            prompt=f"picture {number}",
            samples=1 + number % 2,
            guidance_scale=5.0 if number % 4 < 2 else 1.0,
            steps=4 + number % 5,
            sampler=SAMPLERS[number % 3],
        )
        pipeline.run(request)
        if number in (199, 499):
            gc.collect()
            pipeline._target.device.synchronize()
            live.append(cuda_double.live())
            resident.append(resident_bytes())
    assert live[0] == live[1]
    assert resident[1] - resident[0] < 2 << 20, resident


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
