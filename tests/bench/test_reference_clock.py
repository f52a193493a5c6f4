"""The reference's times on a GPU come from events on its own stream; on a stand-in for torch.cuda, as GPUs are rare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from instantrt_bench.reference.clock import Clock

SECOND = torch.device("cuda", 1)


@dataclass
class FakeGpu:
    """Every recorded event is 10 ms after the one before. ``said`` is what was asked of it, in order."""

    said: list[str]
    now_ms: float = 0.0

    def event(self, enable_timing: bool) -> FakeEvent:
        assert enable_timing
        return FakeEvent(self)

    def note(self, what: str, device: torch.device, answer: Any = None) -> Any:
        assert device == SECOND
        self.said.append(what)
        return answer


@dataclass
class FakeEvent:
    gpu: FakeGpu
    at_ms: float = -1.0

    def record(self, stream: str) -> None:
        assert stream == "the stream of the second GPU"
        self.gpu.said.append("record")
        self.gpu.now_ms += 10.0
        self.at_ms = self.gpu.now_ms

    def synchronize(self) -> None:
        self.gpu.said.append("wait")

    def elapsed_time(self, end: FakeEvent) -> float:
        return end.at_ms - self.at_ms


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    fake = FakeGpu([])
    monkeypatch.setattr(torch.cuda, "Event", fake.event)
    stream = "the stream of the second GPU"
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream if device == SECOND else "another")
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: fake.note("reset", device))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: fake.note("peak", device, 123))
    return fake


def test_times_and_memory_are_those_of_the_gpu_on_which_the_reference_runs(gpu: FakeGpu) -> None:
    clock = Clock(SECOND)
    assert gpu.said == ["reset"]
    latents = torch.zeros(1)

    def loop() -> torch.Tensor:
        for _ in range(3):
            assert clock.step(lambda: clock.network(torch.nn.Identity(), latents)) is latents
        return latents

    assert clock.stage("denoise", loop) is latents
    assert gpu.said == ["reset", *["record"] * 8], "nothing waits for the GPU while it computes"
    assert clock.stages_ms == {"denoise": 70.0}
    assert clock.call_ms == 10.0
    assert clock.peak_device_bytes == 123


def test_on_a_cpu_nothing_is_asked_of_a_gpu(gpu: FakeGpu) -> None:
    clock = Clock(torch.device("cpu"))
    clock.stage("decode", lambda: clock.step(lambda: torch.zeros(1)))
    assert clock.stages_ms["decode"] > 0
    assert clock.peak_device_bytes is None
    assert gpu.said == []
