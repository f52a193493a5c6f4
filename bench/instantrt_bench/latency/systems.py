"""The systems that are measured, each behind the same three calls: open, run, close."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from instantrt import GenerateRequest, InstantID
from instantrt.errors import RequestError
from instantrt.prepare import Preparation
from instantrt_bench.results.systems import SYSTEMS

JPEG_QUALITY = 95


@dataclass(frozen=True)
class SystemSpec:
    """Which system, and what it is made of.

    Args:
        name: a key of :data:`instantrt_bench.results.systems.SYSTEMS`.
        bundle: the bundle's folder; the reference takes its face networks from it.
        checkpoint: folder or hub id; only the reference needs it.
        threads: CPU threads; None leaves them to the system.
        device: where it runs, as torch names it.
        dtype: what its networks compute in, one of :data:`instantrt_bench.results.systems.DTYPES`.
    """

    name: str
    bundle: Path
    checkpoint: str | None
    threads: int | None
    device: str = "cpu"
    dtype: str = "fp32"


@dataclass(frozen=True)
class Sample:
    """One timed request.

    Args:
        latency_ms: from photo bytes to JPEG files.
        cpu_ms: CPU time of the process meanwhile, all threads together. On one thread and a quiet machine it equals the
            latency; other processes change it far less.
        stages_ms: by stage, in order; a runtime's are measured by the device's own clock.
        call_ms: median over the network calls of the loop.
        overhead_us_per_call: median host time per call outside the networks.
        pixels: u8 [samples, H, W, 3].
        latents: f32 [samples, 4, H/8, W/8], from which they were decoded.
        peak_device_bytes: most memory of the GPU's that its tensors took, where it knows.
    """

    latency_ms: float
    cpu_ms: float
    stages_ms: dict[str, float]
    call_ms: float
    overhead_us_per_call: float
    pixels: npt.NDArray[np.uint8]
    latents: npt.NDArray[np.float32]
    peak_device_bytes: int | None = None


class System(Protocol):
    """Something that answers requests."""

    def run(self, request: GenerateRequest) -> Sample:
        """Answer one request, timed."""

    def close(self) -> None:
        """Release everything."""


Opener = Callable[[SystemSpec], System]


def open_system(spec: SystemSpec) -> System:
    """Load the system that ``spec`` names.

    Raises:
        RequestError: an unknown system, or the reference without a checkpoint.
        InstantRTError: whatever keeps it from loading.
    """
    if spec.name not in SYSTEMS:
        raise RequestError("unknown system", found=repr(spec.name), hint=f"use one of: {', '.join(SYSTEMS)}")
    return RuntimeSystem(spec) if SYSTEMS[spec.name].kind == "runtime" else ReferenceSystem(spec)


class RuntimeSystem:
    """The runtime on one target."""

    def __init__(self, spec: SystemSpec) -> None:
        row = SYSTEMS[spec.name]
        assert row.target is not None
        threads = None if row.on_gpu else spec.threads  # targets on GPUs take none
        self._pipeline = InstantID.load(spec.bundle, target=row.target, threads=threads, **row.load_options)

    def run(self, request: GenerateRequest) -> Sample:
        """Answer one request, timed."""
        start, cpu = time.perf_counter(), time.process_time()
        result = self._pipeline.run(request)
        pixels_at = time.perf_counter()
        encode_jpegs(result.pixels)
        end = time.perf_counter()
        timings = result.timings
        return Sample(
            latency_ms=(end - start) * 1e3,
            cpu_ms=(time.process_time() - cpu) * 1e3,
            stages_ms={**timings.stages_ms, "encode": (end - pixels_at) * 1e3},
            call_ms=float(np.median(timings.call_ms)),
            overhead_us_per_call=timings.overhead_us_per_call,
            pixels=result.pixels,
            latents=result.latents,
        )

    def close(self) -> None:
        """Release the pipeline."""
        self._pipeline.close()


class ReferenceSystem:
    """The reference, eager or with its networks under ``torch.compile``; the face stage is the runtime's."""

    def __init__(self, spec: SystemSpec) -> None:
        # torch and diffusers take seconds to import, and memory that the runtime's workers must not seem to need
        from transformers.utils import logging

        logging.set_verbosity_error()  # it warns of image processors that nothing here uses
        from instantrt_bench.fidelity.pair import reference_inputs
        from instantrt_bench.reference.dtypes import DTYPES
        from instantrt_bench.reference.pipeline import Reference
        from instantrt_export.checkpoint import Checkpoint

        if spec.checkpoint is None:
            what = f"{spec.name} needs the checkpoint that the bundle was made from"
            raise RequestError(what, found="none", hint="name it with --checkpoint")
        checkpoint = Checkpoint.open(spec.checkpoint)
        self._reference = Reference.load(checkpoint, spec.threads, spec.device, DTYPES[spec.dtype])
        if SYSTEMS[spec.name].compiled:
            self._reference.compile()
        self._inputs = reference_inputs
        self._preparation = Preparation.load(spec.bundle, threads=spec.threads)

    def run(self, request: GenerateRequest) -> Sample:
        """Answer one request, timed."""
        start, cpu = time.perf_counter(), time.process_time()
        prepared = self._preparation.prepare(request)
        faces_at = time.perf_counter()
        result = self._reference.generate(self._inputs(prepared))
        pixels_at = time.perf_counter()
        encode_jpegs(result.images)
        end = time.perf_counter()
        stages_ms = {
            "photo and face": (faces_at - start) * 1e3,
            **result.timings_ms,
            "encode": (end - pixels_at) * 1e3,
        }
        return Sample(
            latency_ms=(end - start) * 1e3,
            cpu_ms=(time.process_time() - cpu) * 1e3,
            stages_ms=stages_ms,
            call_ms=result.call_ms,
            overhead_us_per_call=result.overhead_us_per_call,
            pixels=result.images,
            latents=result.latents,
            peak_device_bytes=result.peak_device_bytes,
        )

    def close(self) -> None:
        """Release the face networks."""
        self._preparation.close()


def encode_jpegs(pixels: npt.NDArray[np.uint8]) -> list[bytes]:
    """Each picture of u8 [n, H, W, 3] as the bytes of a JPEG file, as a server would send it."""
    encoded = []
    for picture in pixels:
        file = BytesIO()
        Image.fromarray(picture).save(file, format="JPEG", quality=JPEG_QUALITY)
        encoded.append(file.getvalue())
    return encoded
