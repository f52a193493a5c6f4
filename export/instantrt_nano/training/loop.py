"""One training loop for all stages: AdamW, warm-up and cosine, averaged weights, resumable, with a time estimate."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

SAVE_EVERY = 100
SHOW_EVERY = 50
MAX_GRADIENT = 1.0

Step = Callable[[np.random.Generator], tuple[Tensor, dict[str, float]]]
"""Draws a batch with the generator and returns its loss and figures to show."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Args:
        steps: in total; the learning rate is at its lowest after the last.
        learning_rate: the highest, after ``warm_up`` steps.
        warm_up: steps from 0 to the highest.
        last: share of the highest learning rate at the end.
        average: decay of the averaged weights.
        weight_decay: AdamW's.
    """

    steps: int
    learning_rate: float
    warm_up: int = 50
    last: float = 0.03
    average: float = 0.998
    weight_decay: float = 1e-4

    def rate(self, step: int) -> float:
        """The learning rate of ``step``, counted from 0."""
        share = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.learning_rate * min(1, (step + 1) / self.warm_up) * (share * (1 - self.last) + self.last)


@dataclass(frozen=True)
class Run:
    """What is trained.

    Args:
        name: of the stage and of its state file ``name``.pt.
        work: folder of the state file.
        model: all of it is kept and averaged.
        trained: the parameters that move.
    """

    name: str
    work: Path
    model: nn.Module
    trained: list[nn.Parameter]

    @property
    def file(self) -> Path:
        """Where the state is kept."""
        return self.work / f"{self.name}.pt"


def train(run: Run, schedule: Schedule, step: Step) -> nn.Module:
    """Trains ``run.model`` up to ``schedule.steps``, from the last saved state if there is one.

    The numbers that a step draws depend on its index only, so that a resumed run sees what an unbroken one sees. Where
    several processes train together (``torchrun``), each draws its own part of the batch and gradients are averaged:
    on a CPU faster than the threads of one process, which wait for each other in every layer.

    Returns:
        The model with the averaged weights.
    """
    optimiser = torch.optim.AdamW(
        run.trained, lr=schedule.learning_rate, betas=(0.9, 0.99), weight_decay=schedule.weight_decay, fused=True
    )
    average = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    done = _resume(run, optimiser, average)
    progress = _Progress(run.name, done, schedule.steps)
    for i in range(done, schedule.steps):
        torch.manual_seed(i * processes() + rank())
        for group in optimiser.param_groups:
            group["lr"] = schedule.rate(i)
        loss, shown = step(np.random.default_rng((i, rank())))
        optimiser.zero_grad()
        loss.backward()
        _average_gradients(run.trained)
        nn.utils.clip_grad_norm_(run.trained, MAX_GRADIENT)
        optimiser.step()
        _update(average, run.model, min(schedule.average, (1 + i) / (20 + i)))
        progress.add(i + 1, {"loss": float(loss.detach()), **shown})
        if rank() == 0 and ((i + 1) % SAVE_EVERY == 0 or i + 1 == schedule.steps):
            _save(run, optimiser, average, i + 1)
    run.model.load_state_dict(average)
    return run.model.eval()


def processes() -> int:
    """How many train together; each takes its part of a batch."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; the first one also writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def _average_gradients(trained: list[nn.Parameter]) -> None:
    if processes() == 1:
        return
    gradients = [p.grad for p in trained if p.grad is not None]
    together = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(together)
    parts = (together / processes()).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))


def _update(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                average[name].lerp_(tensor, 1 - decay)


def _save(run: Run, optimiser: torch.optim.Optimizer, average: dict[str, Tensor], done: int) -> None:
    state = {"done": done, "model": run.model.state_dict(), "average": average, "optimiser": optimiser.state_dict()}
    part = run.file.with_suffix(".part")
    torch.save(state, part)
    part.replace(run.file)


def _resume(run: Run, optimiser: torch.optim.Optimizer, average: dict[str, Tensor]) -> int:
    """Loads the last state, if there is one; the number of steps done."""
    if not run.file.exists():
        return 0
    state: dict[str, Any] = torch.load(run.file, weights_only=True)
    run.model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    average.update(state["average"])
    return int(state["done"])


class _Progress:
    """A line on stderr every so many steps: means since the last line, seconds per step, minutes left."""

    def __init__(self, name: str, done: int, steps: int) -> None:
        self._name, self._first, self._steps, self._start = name, done, steps, time.monotonic()
        self._sums: dict[str, float] = {}
        self._count = 0

    def add(self, done: int, shown: dict[str, float]) -> None:
        """After a step."""
        if rank() > 0:
            return
        for key, value in shown.items():
            self._sums[key] = self._sums.get(key, 0.0) + value
        self._count += 1
        if done % SHOW_EVERY and done != self._steps:
            return
        per_step = (time.monotonic() - self._start) / (done - self._first)
        figures = "  ".join(f"{key} {value / self._count:.4f}" for key, value in self._sums.items())
        left = per_step * (self._steps - done) / 60
        sys.stderr.write(f"{self._name} {done}/{self._steps}  {figures}  {per_step:.3f} s/step  {left:.1f} min left\n")
        sys.stderr.flush()
        self._sums.clear()
        self._count = 0
