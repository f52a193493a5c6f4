"""What the worker finds out about its device at start-up: slot counts that pay, lanes that fit, how long things take.

It generates a picture of nobody: the person, the text and the noise cost the networks the same whatever they are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Protocol, runtime_checkable

import numpy as np

from instantrt.conditioning.identity import Identity
from instantrt.conditioning.keypoints import draw_keypoints
from instantrt.denoise import DenoiseLoop, LoopShape, SlotInputs
from instantrt.device import Device
from instantrt.errors import NoFaceError
from instantrt.prepare import Prepared, request_table
from instantrt.request import GenerateRequest
from instantrt_serve.estimate import shape_name
from instantrt_serve.worker.lanes import NO_ROOM
from instantrt_serve.worker.maker import PictureMaker
from instantrt_serve.worker.preview import PreviewMap

SLOTS = (1, 2, 4)
NEARLY_FREE = 1.25  # times a call with fewer slots: idle slots cost so little that the fewer are not worth a lane
LEAST_GAIN = 1.02  # of pictures per time, for which lanes with more slots are worth it
MAX_LANES = 24
MEMORY_SHARE = 0.8  # of what is free that further lanes may take
ROUNDS = 5  # in which all that is compared takes turns, after one that is not timed
CALLS = 2  # of each in a round
STEPS = 4  # of the picture that previews are fitted to
NOBODYS = GenerateRequest(face=b"", prompt="portrait photo of a person", steps=STEPS, seed=0)
"""The request that is measured; its person has a face of random numbers in the middle of the picture."""
FACE = ((0.38, 0.42), (0.62, 0.42), (0.5, 0.55), (0.41, 0.68), (0.59, 0.68))  # keypoints in parts of the picture


@dataclass(frozen=True)
class Measured:
    """What was found out.

    Args:
        loop: a denoise loop of the shape that requests have by default, warm.
        slot_costs: slot counts of lanes, the fewest first, and what a call with so many costs in units of a call of one
            picture: the first one's call divided by its slots.
        lanes: at most.
        call_ms: as in :attr:`instantrt_serve.messages.Ready.call_ms`.
        fixed_ms: of conditioning and decoding one picture.
        preview: the map for previews.
    """

    loop: DenoiseLoop
    slot_costs: dict[int, float]
    lanes: int
    call_ms: dict[str, float]
    fixed_ms: float
    preview: PreviewMap

    @property
    def slots(self) -> int:
        """Of the narrowest lanes."""
        return next(iter(self.slot_costs))

    @property
    def rate(self) -> float:
        """The most calls of one picture that are done in the time of one, with the slots that do most."""
        return best_rate(self.slot_costs)

    @property
    def shapes(self) -> dict[int, LoopShape]:
        """Of lanes for the default size, by slots."""
        return {slots: replace(self.loop.shape, slots=slots) for slots in self.slot_costs}


def best_rate(costs: Mapping[int, float]) -> float:
    """Calls of one picture in the time of one, with the slots that do most for what their lane's call costs."""
    return max(slots / cost for slots, cost in costs.items())


def measure(maker: PictureMaker, slots: int | None = None, lanes: int | None = None) -> Measured:
    """Warm up the networks and measure them.

    Args:
        maker: its networks.
        slots: take so many instead of what pays.
        lanes: take so many instead of what fits.
    """
    _find_no_face(maker)
    fixed_ms = 0.0
    for _ in range(2):  # the first time is not that of later ones
        start = perf_counter()
        inputs = nobodys_inputs(maker)
        fixed_ms = (perf_counter() - start) * 1e3
    before = used_bytes(maker.device)
    loop, times_ms = _timed_loops(maker, inputs, SLOTS if slots is None else (slots,))
    lane_bytes = max(1, used_bytes(maker.device) - before)
    preview, decode_ms = _preview(maker, loop, inputs)
    width, height, batch = loop.shape.width, loop.shape.height, loop.shape.guidance_batch
    fitting = 1 + int(MEMORY_SHARE * free_bytes(maker.device)) // lane_bytes
    return Measured(
        loop,
        {count: round(loop.shape.slots * ms / times_ms[loop.shape.slots], 3) for count, ms in times_ms.items()},
        min(MAX_LANES, fitting) if lanes is None else lanes,
        {shape_name(width, height, batch): round(times_ms[loop.shape.slots], 3)},
        round(fixed_ms + decode_ms, 3),
        preview,
    )


def nobodys_inputs(maker: PictureMaker) -> SlotInputs:
    """The inputs of a slot for :data:`NOBODYS`, always the same."""
    table, guidance_batch = request_table(NOBODYS, maker.bundle.scheduler), maker.shape(NOBODYS, 1).guidance_batch
    maker.clock.restart()
    return maker.kept(maker.condition(_nobody(maker), table, guidance_batch)[0][0])


def _nobody(maker: PictureMaker) -> Prepared:
    width, height = maker.size(NOBODYS)
    keypoints = np.array(FACE, np.float32) * np.array([width, height], np.float32)
    embedding = np.random.default_rng(0).standard_normal(maker.bundle.dims.face_embedding_width).astype(np.float32)
    region = np.ones((height, width), np.float32)
    identity = Identity(embedding, draw_keypoints(keypoints, width, height), region, keypoints, ())
    return Prepared(NOBODYS, NOBODYS.prompt, None, 0, width, height, identity)


def _find_no_face(maker: PictureMaker) -> None:
    """Warm up the face detector; the encoder works only where there is a face."""
    with suppress(NoFaceError):
        maker.preparation.faces.find(np.full((128, 128, 3), 128, np.uint8), "warm-up")


def _timed_loops(
    maker: PictureMaker, inputs: SlotInputs, counts: Sequence[int]
) -> tuple[DenoiseLoop, dict[int, float]]:
    """The loop with the fewest slots of those that are worth it, and the times of a call of all of these by slots."""
    loops: dict[int, DenoiseLoop] = {}
    with ExitStack() as opened:
        for count in counts:
            shape = maker.shape(NOBODYS, count)
            if loops and shape.slots != count:
                continue
            try:
                loop = opened.enter_context(closing(maker.open_loop(shape)))
            except NO_ROOM:
                if not loops:
                    raise
                break
            loops[shape.slots] = loop
        times_ms = least_ms({count: [loop] for count, loop in loops.items()}, inputs)
        latents = [slot for loop in loops.values() for slot in loop.latents()]
        exact = all(np.array_equal(slot, latents[0]) for slot in latents)
        kept = worthwhile(times_ms, exact=exact)
        first = loops.pop(kept[0])
        opened.pop_all()
        for loop in loops.values():
            loop.close()
    return first, {count: times_ms[count] for count in kept}


def least_ms(sets: Mapping[int, Sequence[DenoiseLoop]], inputs: SlotInputs) -> dict[int, float]:
    """Milliseconds of a call of each set of loops, which work at once; the sets take turns.

    The least of all times, as whatever else goes on can only add to it. Afterwards the latents of all slots are those
    after equally many calls.
    """
    times_ms: dict[int, list[float]] = {key: [] for key in sets}
    with ThreadPoolExecutor(max(map(len, sets.values()))) as threads:

        def run(loops: Sequence[DenoiseLoop], calls: int) -> float:
            return max(min(times.call_ms) for times in threads.map(partial(DenoiseLoop.run, calls=calls), loops))

        for loops in sets.values():
            for loop in loops:
                for slot in range(loop.shape.slots):
                    loop.load_slot(slot, inputs)
            run(loops, 1)
        for _ in range(ROUNDS):
            for key, loops in sets.items():
                times_ms[key].append(run(loops, CALLS))
    return {key: min(times) for key, times in times_ms.items()}


def worthwhile(times_ms: Mapping[int, float], *, exact: bool) -> list[int]:
    """The slot counts of which lanes are made, the fewest first.

    Args:
        times_ms: of a call, by slot count, the fewest first.
        exact: whether a picture is the same, bit for bit, in all of them. If not, one count is used for everything, so
            that what others ask for does not change a picture.
    """
    kept: list[int] = []
    for count, ms in times_ms.items():
        if kept and ms <= NEARLY_FREE * times_ms[kept[-1]]:
            kept[-1] = count
        elif not kept or (exact and count / ms >= LEAST_GAIN * kept[-1] / times_ms[kept[-1]]):
            kept.append(count)
    return kept


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


def used_bytes(device: Device) -> int:
    """Memory that is taken: of the GPU, or by this process."""
    if isinstance(device, HasMemory):
        free, total = device.memory_bytes()
        return total - free
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
