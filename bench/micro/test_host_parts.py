"""The runtime's small host parts, at the sizes that SDXL gives them. What they return is checked after it is timed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from doubles.small import DIMS
from instantrt.conditioning.detectors import suppress
from instantrt.conditioning.keypoints import draw_keypoints
from instantrt.conditioning.text import PromptTokenizer
from instantrt.contracts import NetworkContract, network_contracts
from instantrt.denoise import DenoiseLoop, LoopShape
from instantrt.device import Buffer, Stream
from instantrt.device.host import HostDevice
from instantrt.noise import TorchGenerator
from instantrt.samplers import SAMPLERS, SchedulerConfig, step_table
from instantrt_nano.tokenizer import END, write_tokenizer

SDXL_LATENTS = (1, 4, 128, 128)
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
