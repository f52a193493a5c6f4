"""What a request gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image


@dataclass
class Timings:
    """Milliseconds per stage and per network call of the loop, as the device's stream saw them.

    The stage ``load`` is all loading of weights, making of execution contexts and capturing of graphs: next to nothing
    for a shape that was asked for before, unless weights are loaded by stage (``residency="staged"``).
    """

    stages_ms: dict[str, float] = field(default_factory=dict)
    call_ms: tuple[float, ...] = ()
    overhead_us: tuple[float, ...] = ()  # of the host per call, outside the engines and not waiting

    @property
    def total_ms(self) -> float:
        """Sum of the stages."""
        return sum(self.stages_ms.values())

    @property
    def overhead_us_per_call(self) -> float:
        """Median host time per network call, outside the engines and not waiting."""
        return median(self.overhead_us)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "total_ms": round(self.total_ms, 3),
            "stages_ms": {name: round(ms, 3) for name, ms in self.stages_ms.items()},
            "call_ms_median": round(median(self.call_ms), 3),
            "host_overhead_us_per_call": round(self.overhead_us_per_call, 1),
        }


@dataclass(frozen=True)
class GenerateResult:
    """Pictures and how they came about.

    Args:
        pixels: u8 [samples, H, W, 3] RGB.
        latents: f32 [samples, 4, H/8, W/8], the loop's final latents.
        seed: the seed used, also when one was drawn.
        keypoints: f32 [5, 2] face keypoints asked for, in picture pixels.
        warnings: what the caller should know, e.g. several faces, or words of the prompt that did not fit.
        timings: where the time went.
        latents_per_call: f32 [network calls, samples, 4, H/8, W/8], the latents after each call, if asked for.
    """

    pixels: npt.NDArray[np.uint8]
    latents: npt.NDArray[np.float32]
    seed: int
    keypoints: npt.NDArray[np.float32]
    warnings: tuple[str, ...]
    timings: Timings
    latents_per_call: npt.NDArray[np.float32] | None = None

    @property
    def images(self) -> list[Image.Image]:
        """The pictures as PIL images."""
        return [Image.fromarray(p) for p in self.pixels]
