"""The runtime's small host parts, at the sizes that SDXL gives them. What they return is checked after it is timed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from pytest_benchmark.fixture import BenchmarkFixture

from doubles.small import DIMS
from instantrt.conditioning.detectors import suppress
from instantrt.conditioning.keypoints import draw_keypoints
from instantrt.conditioning.text import PromptTokenizer
from instantrt.contracts import NetworkContract, network_contracts
from instantrt.denoise import DenoiseLoop, LoopShape
from instantrt.device import Buffer, Stream
from instantrt.device.host import HostDevice
from instantrt.engine.flavours import FLAVOURS
from instantrt.engine.onnxruntime import import_onnxruntime
from instantrt.engine.tensorrt_log import TensorRTLog
from instantrt.finite import all_finite
from instantrt.noise import TorchGenerator
from instantrt.residency import Residency
from instantrt.samplers import SAMPLERS, SchedulerConfig, step_table
from instantrt_nano.tokenizer import END, write_tokenizer

NANO_LATENTS, SDXL_LATENTS = (1, 4, 16, 16), (1, 4, 128, 128)
LOOP_CALLS = 30


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_step_table(benchmark: BenchmarkFixture, sdxl_scheduler: SchedulerConfig, sampler: str) -> None:
    """A sampler's table for 30 steps."""
    table = benchmark(step_table, sampler, 30, 5.0, sdxl_scheduler)
    assert np.isfinite(table.rows).all()


def test_noise(benchmark: BenchmarkFixture) -> None:
    """The initial noise of one 1024x1024 picture."""
    noise = benchmark(lambda: TorchGenerator(42).randn(SDXL_LATENTS))
    assert abs(float(noise.mean())) < 0.02


@pytest.mark.parametrize("shape", [NANO_LATENTS, SDXL_LATENTS], ids=["nano", "sdxl"])
def test_finite_latents(benchmark: BenchmarkFixture, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    """The look at the final latents of one picture for what is no finite number."""
    assert benchmark(all_finite, rng.standard_normal(shape, np.float32))


@pytest.mark.parametrize("px", [128, 1024], ids=["nano", "sdxl"])
def test_magnitude(benchmark: BenchmarkFixture, rng: np.random.Generator, px: int) -> None:
    """What the decoder's output ``magnitude`` adds on one CPU thread, and one call of a session, about 4 us."""
    nodes = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("ReduceMean", ["a", "axes"], ["y"], keepdims=0)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    axes = [helper.make_tensor("axes", TensorProto.INT64, [3], [1, 2, 3])]
    graph = helper.make_graph(nodes, "magnitude", ends[:1], ends[1:], axes)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (magnitude,) = benchmark(session.run, None, {"x": rng.standard_normal((1, 3, px, px), np.float32)})
    assert 0.7 < magnitude[0] < 0.9


def test_suppression(benchmark: BenchmarkFixture, rng: np.random.Generator) -> None:
    """Non-maximum suppression of 400 candidates around 20 faces, best first."""
    corners = rng.uniform(0, 500, (20, 1, 2)) + rng.normal(0, 2, (20, 20, 2))
    boxes = np.concatenate([corners, corners + 60], axis=-1).reshape(-1, 4).astype(np.float32)
    kept = benchmark(suppress, boxes, 0.4)
    assert 10 <= len(kept) <= 40


def test_keypoint_picture(benchmark: BenchmarkFixture) -> None:
    """The control picture of 1024x1024."""
    keypoints = np.array([[380, 420], [640, 430], [505, 580], [400, 720], [610, 725]], np.float32)
    picture = benchmark(draw_keypoints, keypoints, 1024, 1024)
    assert picture.any()


def test_tokenising(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """A prompt of about 40 words, with nano's vocabulary."""
    vocabulary = write_tokenizer(tmp_path / "tokenizer", padding=END)
    ids = {"bos_id": vocabulary - 2, "eos_id": vocabulary - 1, "pad_id": vocabulary - 1, "max_length": 77}
    (tmp_path / "config.json").write_text(json.dumps(ids), encoding="utf-8")
    tokenizer = PromptTokenizer(tmp_path / "tokenizer" / "tokenizer.json", tmp_path / "config.json")
    prompt = "film noir portrait of a person, rain on glass, hard light, " * 4
    tokens = benchmark(tokenizer.encode, prompt)
    assert tokens.ids.shape == (77,)


def test_host_loop(benchmark: BenchmarkFixture) -> None:
    """30 calls of the step loop with networks that take no time: what the host adds."""
    shape = LoopShape(slots=1, guidance_batch=2, height=128, width=128)
    with closing(DenoiseLoop(_IdleTarget(), DIMS, "fp32", shape)) as loop:
        times = benchmark(loop.run, LOOP_CALLS)
    assert len(times.call_ms) == LOOP_CALLS


class _IdleEngine:
    def __init__(self, contract: NetworkContract) -> None:
        self.contract = contract
        self.busy_ns = 0

    def bind(self, name: str, buffer: Buffer) -> None:
        """Nothing reads it."""

    def warm_up(self, stream: Stream, *, capture: bool) -> None:
        """Nothing is left to the first execution."""

    def enqueue(self, stream: Stream) -> None:
        """Put nothing on the stream."""
        stream.submit(lambda: None)

    def close(self) -> None:
        """Nothing is held."""


class _IdleTarget:
    name = "idle"
    warnings = ()
    residency: Residency = "resident"
    capturable = True

    def __init__(self) -> None:
        self.device = HostDevice()

    def accepts(self, network: str, symbols: Mapping[str, int]) -> bool:
        """Whatever is asked."""
        return True

    def load(self, network: str, symbols: Mapping[str, int]) -> _IdleEngine:
        """An engine that does nothing."""
        return _IdleEngine(network_contracts(DIMS)[network])

    def close(self) -> None:
        """Nothing is held."""


def test_dropped_message(benchmark: BenchmarkFixture) -> None:
    """A verbose message of TensorRT's that nobody wants, from C++ to Python and back."""
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="needs the rtx extra")
    module = FLAVOURS["tensorrt-rtx"].load()
    log = TensorRTLog(module)
    benchmark(module.ILogger.log, log.logger, module.ILogger.Severity.VERBOSE, "x" * 120)
    assert log.failure("nothing failed", "").found == "TensorRT gave no reason"
