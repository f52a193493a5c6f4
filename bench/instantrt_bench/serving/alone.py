"""The requests of a load test one at a time: by the runtime in this process, as a server does them, and over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from instantrt import InstantID
from instantrt_bench.serving.mix import Asked
from instantrt_bench.serving.outcome import pixels_digest
from instantrt_serve.pictures import tagged_picture
from instantrt_serve.schema import NOT_OF_THE_RUNTIME, RUNTIME_NAMES


@dataclass(frozen=True)
class Made:
    """Pixels' digests of the pictures, and milliseconds from the photo's file to the pictures' files.

    Loading a loop of another shape is not in them: a server that has all its loops in memory must not shine by that.
    """

    digests: tuple[str, ...]
    latency_ms: float


def make_alone(pipeline: InstantID, asked: Asked, photos: Mapping[str, bytes]) -> Made:
    """What a server does for a request, without a server."""
    began = perf_counter()
    result = pipeline.generate(face=photos[asked.photo], **runtime_fields(asked.body))
    files = [tagged_picture(pixels, "jpeg", {}) for pixels in result.pixels]
    latency_ms = (perf_counter() - began) * 1e3 - result.timings.stages_ms["load"]
    return Made(tuple(pixels_digest(file) for file in files), latency_ms)


def runtime_fields(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body's fields under the runtime's names."""
    kept = {name: value for name, value in body.items() if name not in NOT_OF_THE_RUNTIME}
    return {RUNTIME_NAMES.get(name, name): value for name, value in kept.items()}
