"""What the worker finds out about its device at start-up: how many slots pay, how many lanes fit, how long things take.

It generates a picture of nobody: the person, the text and the noise cost the networks the same whatever they are.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Protocol, runtime_checkable

import numpy as np

from instantrt.conditioning.identity import Identity
from instantrt.conditioning.keypoints import draw_keypoints
from instantrt.denoise import DenoiseLoop, SlotInputs
from instantrt.device import Device
from instantrt.errors import NoFaceError
from instantrt.prepare import Prepared, request_table
from instantrt.request import GenerateRequest
from instantrt_serve.estimate import shape_name
from instantrt_serve.worker.lanes import NO_ROOM
from instantrt_serve.worker.maker import PictureMaker
from instantrt_serve.worker.preview import PreviewMap

SLOTS = (1, 2, 4)
MAX_SLOWDOWN = 1.25  # of a lane's call for more slots: idle ones are then nearly free
MAX_LANES = 8
MEMORY_SHARE = 0.8  # of what is free that further lanes may take
CALLS = 3  # timed, after one that is not
STEPS = 4  # of the picture that previews are fitted to
FACE = ((0.38, 0.42), (0.62, 0.42), (0.5, 0.55), (0.41, 0.68), (0.59, 0.68))  # keypoints in parts of the picture


@dataclass(frozen=True)
class Measured:
    """What was found out.

    Args:
        loop: a denoise loop of the shape that requests have by default, warm.
        slots: of a lane.
        lanes: at most.
        call_ms: as in :attr:`instantrt_serve.messages.Ready.call_ms`.
        fixed_ms: of conditioning and decoding one picture.
        preview: the map for previews.
    """

    loop: DenoiseLoop
    slots: int
    lanes: int
    call_ms: dict[str, float]
    fixed_ms: float
    preview: PreviewMap


def measure(maker: PictureMaker, slots: int | None = None, lanes: int | None = None) -> Measured:
    """Warm up the networks and measure them.

    Args:
        maker: its networks.
        slots: take so many instead of what pays.
        lanes: take so many instead of what fits.
    """
    request = GenerateRequest(face=b"", prompt="portrait photo of a person", steps=STEPS, seed=0)
    prepared, table = _nobody(maker, request), request_table(request, maker.bundle.scheduler)
    _find_no_face(maker)
    guidance_batch = maker.shape(request, 1).guidance_batch
    fixed_ms = 0.0
    for _ in range(2):  # the first time is not that of later ones
        maker.clock.restart()
        start = perf_counter()
        inputs = maker.kept(maker.condition(prepared, table, guidance_batch)[0][0])
        fixed_ms = (perf_counter() - start) * 1e3
    before = _used_bytes(maker.device)
    loop, call_ms = _best_loop(maker, request, inputs, SLOTS if slots is None else (slots,))
    lane_bytes = max(1, _used_bytes(maker.device) - before)
    preview, decode_ms = _preview(maker, loop, inputs)
    width, height, batch = loop.shape.width, loop.shape.height, loop.shape.guidance_batch
    fitting = 1 + int(MEMORY_SHARE * free_bytes(maker.device)) // lane_bytes
    return Measured(
        loop,
        loop.shape.slots,
        min(MAX_LANES, fitting) if lanes is None else lanes,
        {shape_name(width, height, batch): round(call_ms, 3)},
        round(fixed_ms + decode_ms, 3),
        preview,
    )


def _nobody(maker: PictureMaker, request: GenerateRequest) -> Prepared:
    """A request of nobody: a face of random numbers in the middle of the picture."""
    width, height = maker.size(request)
    keypoints = np.array(FACE, np.float32) * np.array([width, height], np.float32)
    embedding = np.random.default_rng(0).standard_normal(maker.bundle.dims.face_embedding_width).astype(np.float32)
    region = np.ones((height, width), np.float32)
    identity = Identity(embedding, draw_keypoints(keypoints, width, height), region, keypoints, ())
    return Prepared(request, request.prompt, None, 0, width, height, identity)


def _find_no_face(maker: PictureMaker) -> None:
    """Warm up the face detector; the encoder works only where there is a face."""
    with suppress(NoFaceError):
        maker.preparation.faces.find(np.full((128, 128, 3), 128, np.uint8), "warm-up")


def _best_loop(
    maker: PictureMaker, request: GenerateRequest, inputs: SlotInputs, counts: tuple[int, ...]
) -> tuple[DenoiseLoop, float]:
    """The loop with the most slots whose call costs little more than that of the first, and the time of its call."""
    best: tuple[DenoiseLoop, float] | None = None
    first_ms = 0.0
    for count in counts:
        shape = maker.shape(request, count)
        if shape.slots != count and best is not None:
            continue
        try:
            loop = maker.open_loop(shape)
        except NO_ROOM:
            if best is None:
                raise
            break
        ms = _time_call(loop, inputs)
        if best is None:
            first_ms, best = ms, (loop, ms)
        elif ms <= MAX_SLOWDOWN * first_ms:
            best[0].close()
            best = loop, ms
        else:
            loop.close()
            break
    if best is None:
        raise ValueError("no slot counts to choose from")
    return best


def _time_call(loop: DenoiseLoop, inputs: SlotInputs) -> float:
    for slot in range(loop.shape.slots):
        loop.load_slot(slot, inputs)
    loop.run(1)
    return median(loop.run(CALLS).call_ms)


def _preview(maker: PictureMaker, loop: DenoiseLoop, inputs: SlotInputs) -> tuple[PreviewMap, float]:
    """The map for previews from one finished picture, and how long decoding takes."""
    loop.load_slot(0, inputs)
    loop.run(len(inputs.table.rows))
    latents = maker.latents(loop, 0)
    pixels = maker.decode(latents)
    start = perf_counter()
    maker.decode(latents)
    return PreviewMap.fit(latents[None], pixels[None]), (perf_counter() - start) * 1e3


@runtime_checkable
class HasMemory(Protocol):
    """A device with memory of its own."""

    def memory_bytes(self) -> tuple[int, int]:
        """Free and total."""
        ...


def free_bytes(device: Device) -> int:
    """Memory for further lanes: of the GPU, or what the system could give this process."""
    if isinstance(device, HasMemory):
        return device.memory_bytes()[0]
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _used_bytes(device: Device) -> int:
    if isinstance(device, HasMemory):
        free, total = device.memory_bytes()
        return total - free
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
