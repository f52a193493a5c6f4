"""Times of the reference's stages and steps: the host's on a CPU, CUDA events on a GPU, which nothing waits for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Mark = Any  # seconds of the host, or a recorded torch.cuda.Event


class Clock:
    """Marks stages, steps and the networks within them.

    Args:
        device: whose stream's time it is.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._device = device
        self._stages: list[tuple[str, Mark, Mark]] = []
        self._steps: list[tuple[Mark, Mark]] = []
        self._outside_us: list[float] = []
        self._networks_s = 0.0
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats(device)

    def stage(self, name: str, compute: Callable[[], Any]) -> Any:
        """What ``compute`` gives, timed."""
        start = self._mark()
        result = compute()
        self._stages.append((name, start, self._mark()))
        return result

    def network(self, module: torch.nn.Module, *inputs: torch.Tensor, **options: Any) -> Any:
        """What ``module`` gives; the host's time in it is not counted as outside."""
        start = time.perf_counter()
        result = module(*inputs, **options)
        self._networks_s += time.perf_counter() - start
        return result

    def step(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What ``compute`` gives, timed as one step."""
        start, host, self._networks_s = self._mark(), time.perf_counter(), 0.0
        result = compute()
        self._outside_us.append((time.perf_counter() - host - self._networks_s) * 1e6)
        self._steps.append((start, self._mark()))
        return result

    @property
    def stages_ms(self) -> dict[str, float]:
        """By stage. Waits for the GPU."""
        return {name: self._ms(start, end) for name, start, end in self._stages}

    @property
    def call_ms(self) -> float:
        """Median of the steps. Waits for the GPU."""
        return float(np.median([self._ms(start, end) for start, end in self._steps]))

    @property
    def outside_us(self) -> float:
        """Median of the host's time in a step outside UNet and IdentityNet."""
        return float(np.median(self._outside_us))

    @property
    def peak_device_bytes(self) -> int | None:
        """The most that torch's tensors took of the GPU since the clock was made; None on a CPU."""
        return int(torch.cuda.max_memory_allocated(self._device)) if self._on_gpu else None

    def _mark(self) -> Mark:
        if not self._on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _ms(self, start: Mark, end: Mark) -> float:
        if not self._on_gpu:
            return float(end - start) * 1e3
        end.synchronize()
        return float(start.elapsed_time(end))
