"""Systems of the latency benchmark that sleep instead of computing, and misbehave when told to.

The latency that they give is how long they were to sleep, which no load on the machine alters.
What a system does is JSON in the place of the checkpoint, by system name: ``ms`` to sleep, a ``load_error``, a ``log``
to write requests to, and in which request, counted from 1, to ``raise_at``, ``die_at``, ``interrupt_parent_at``, or to
give a ``wrong_at`` or a ``flat_at`` picture.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import numpy as np

from instantrt import GenerateRequest
from instantrt.errors import BundleError
from instantrt_bench.latency.systems import Sample, SystemSpec


class SleepingSystem:
    def __init__(self, spec: SystemSpec) -> None:
        self._plan = json.loads(spec.checkpoint or "{}").get(spec.name, {})
        if "load_error" in self._plan:
            raise BundleError(self._plan["load_error"])
        self._log = self._plan.get("log")
        self._name = spec.name
        self._requests = 0

    def run(self, request: GenerateRequest) -> Sample:
        self._requests += 1
        if self._log:
            with Path(self._log).open("a", encoding="utf-8") as file:
                file.write(f"{self._name} {hashlib.sha256(request.face).hexdigest()} {request.prompt}\n")
        if self._requests == self._plan.get("raise_at"):
            raise RuntimeError("planted")
        if self._requests == self._plan.get("die_at"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._requests == self._plan.get("interrupt_parent_at"):
            os.kill(os.getppid(), signal.SIGINT)
        latency_ms = float(self._plan.get("ms", 1))
        time.sleep(latency_ms / 1e3)
        return Sample(
            latency_ms,
            0.5,
            {"denoise": latency_ms / 2, "decode": latency_ms / 4},
            1.5,
            20.0,
            self._pixels(request),
            _latents(),
        )

    def close(self) -> None:
        pass

    def _pixels(self, request: GenerateRequest) -> np.ndarray:
        """The same for every system: noise that the prompt seeds."""
        seed = int.from_bytes(hashlib.sha256(request.prompt.encode()).digest()[:4], "little")
        shape = (request.samples, request.height, request.width, 3)
        if self._requests == self._plan.get("flat_at"):
            return np.full(shape, 7, np.uint8)
        if self._requests == self._plan.get("wrong_at"):
            seed += 1
        return np.random.default_rng(seed).integers(256, size=shape, dtype=np.uint8)


def _latents() -> np.ndarray:
    return np.zeros((1, 4, 8, 8), np.float32)


def open_sleeping(spec: SystemSpec) -> SleepingSystem:
    return SleepingSystem(spec)
