"""The step loop: two engines and three copies, captured once per shape and launched once per network call.

All that differs between requests - sampler, step count, guidance scale, strengths, masks, seed, text, face - is data in
the loop's buffers, so one captured graph serves every request of the same (slots, guidance batch, height, width).
Slots are independent of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from time import perf_counter_ns, sleep
from typing import Any, Literal
from weakref import finalize

import numpy as np
import numpy.typing as npt

from instantrt.contracts import (
    NOISE_ROWS,
    STEP_ROWS,
    ModelDims,
    Precision,
    TensorSpec,
    loop_buffer,
    network_contracts,
)
from instantrt.device import Buffer, Device, Event
from instantrt.engine import Engine, Target
from instantrt.errors import CancelledError
from instantrt.samplers import HOLD_ROW, StepTable

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]

LOOP_NETWORKS = ("identitynet", "unet")  # in this order, once per call

# After each call the unet's outputs become its next inputs.
CARRIED = (("next_latents", "latents"), ("next_history", "history"), ("next_step", "step"))

MAX_LOOPS = 4  # shapes whose buffers, and graphs where weights stay loaded, are kept
IN_FLIGHT = 4  # launched calls that may be unfinished: enough to hide the polling below, few enough to cancel soon
POLL_S = 100e-6  # between two looks at an unfinished call; a call of SDXL takes 10 ms or more


@dataclass(frozen=True)
class LoopShape:
    """What a captured graph is fixed to."""

    slots: int
    guidance_batch: int
    height: int
    width: int

    @property
    def symbols(self) -> dict[str, int]:
        """The contract symbols in numbers."""
        return {"B": self.slots, "G": self.guidance_batch, "H": self.height, "W": self.width}


@dataclass(frozen=True)
class SlotInputs:
    """Everything one slot needs for its whole loop. G is the guidance batch; h = H/8, w = W/8.

    The conditions may be host arrays, which are uploaded, or buffers of the loop's device, which are copied there.

    Args:
        table: the sampler's rows, n of them.
        latents: f32 [4, h, w], noise already times ``table.init_noise_sigma``.
        noise: f32 [draws, 4, h, w], row i is added at step i by stochastic samplers.
        time_embeddings_unet: [n, G, width].
        time_embeddings_identitynet: [n, G, width].
        text_kv_unet: [G, 77, width], keys and values of all cross-attentions.
        face_kv_unet: [G, 16, width].
        face_kv_identitynet: [G, 16, width].
        control_features: [channels, h, w].
        masks: by input name, e.g. ``control_mask_8`` f32 [H/8, W/8], strengths multiplied in.
    """

    table: StepTable
    latents: Array
    noise: Array
    time_embeddings_unet: Array | Buffer
    time_embeddings_identitynet: Array | Buffer
    text_kv_unet: Array | Buffer
    face_kv_unet: Array | Buffer
    face_kv_identitynet: Array | Buffer
    control_features: Array | Buffer
    masks: Mapping[str, Array]


Place = Literal["slot", "rows", "guidance"]


@dataclass(frozen=True)
class SlotSource:
    """Where one of the loop's buffers gets a slot's contents from.

    Args:
        buffer: the loop's buffer.
        value: the contents.
        place: ``slot``: all of ``buffer[slot]``; ``rows``: its first rows, as many as there are contents;
            ``guidance``: ``buffer[g, slot]`` for each row g of the guidance batch.
    """

    buffer: str
    value: Callable[[SlotInputs], Array | Buffer]
    place: Place


SLOT_SOURCES = (
    SlotSource("latents", lambda inputs: inputs.latents, "slot"),
    SlotSource("history", lambda inputs: np.zeros_like(inputs.latents), "slot"),
    SlotSource("step", lambda _: np.zeros((), np.int32), "slot"),
    SlotSource("step_table", lambda inputs: _hold_after(inputs.table.rows), "slot"),
    SlotSource("noise", lambda inputs: inputs.noise[:NOISE_ROWS], "rows"),
    SlotSource("time_embeddings_unet", lambda inputs: inputs.time_embeddings_unet, "rows"),
    SlotSource("time_embeddings_identitynet", lambda inputs: inputs.time_embeddings_identitynet, "rows"),
    SlotSource("text_kv_unet", lambda inputs: inputs.text_kv_unet, "guidance"),
    SlotSource("face_kv_unet", lambda inputs: inputs.face_kv_unet, "guidance"),
    SlotSource("face_kv_identitynet", lambda inputs: inputs.face_kv_identitynet, "guidance"),
    SlotSource("control_features", lambda inputs: inputs.control_features, "slot"),
)
"""Every input of the loop but masks, which keep the names of the networks' inputs."""


@dataclass(frozen=True)
class LoopTimes:
    """Times of one run of the loop, one entry per network call."""

    call_ms: tuple[float, ...]  # on the device, from events
    overhead_us: tuple[float, ...]  # of the host, outside the engines and not waiting


class DenoiseLoop:
    """The loop of one shape: loads its engines, allocates and binds its buffers, captures its graph.

    Args:
        target: makes the engines and owns the device.
        dims: the bundle's sizes.
        precision: the bundle's network dtype.
        shape: slots, guidance batch and picture size.
        eager: put every call on the stream anew instead of launching a captured graph, for debugging; targets that
            cannot be captured always run so.
        loaded: load the engines at once; without, :meth:`load` is to be called before :meth:`launch`.
        shared: a loop of the same shape, which is closed after this one: both work on its buffers.
    """

    def __init__(
        self,
        target: Target,
        dims: ModelDims,
        precision: Precision,
        shape: LoopShape,
        *,
        eager: bool = False,
        loaded: bool = True,
        shared: DenoiseLoop | None = None,
    ) -> None:
        self.shape = shape
        self._target, self._eager = target, eager or not target.capturable
        self._device: Device = target.device
        self._engines: tuple[Engine, ...] = ()
        with ExitStack() as owned:
            self._buffers: dict[str, Buffer] = (
                self._allocated(dims, precision, owned) if shared is None else shared._buffers
            )
            self._idle_marks = [owned.enter_context(closing(self._device.event())) for _ in range(STEP_ROWS + 1)]
            self._loaded = owned.enter_context(ExitStack())
            if loaded:
                self.load()
            self._owned = owned.pop_all()

    def _allocated(self, dims: ModelDims, precision: Precision, owned: ExitStack) -> dict[str, Buffer]:
        contracts, device = network_contracts(dims), self._device
        specs = _loop_specs(contracts["identitynet"].inputs, contracts["unet"].inputs, contracts["unet"].outputs)
        sizes = {name: (spec.resolve(self.shape.symbols), spec.numpy_dtype(precision)) for name, spec in specs.items()}
        return {name: owned.enter_context(closing(device.allocate(*size))) for name, size in sizes.items()}

    def load(self) -> None:
        """Load the engines and capture the graph, unless that is done. Outputs of the networks may be overwritten.

        A graph is legal as long as the contexts that it captured: whenever these are made anew, so is the graph.
        """
        if self.is_loaded:
            return
        with ExitStack() as loaded:
            self._engines = tuple(
                loaded.enter_context(closing(self._target.load(name, self.shape.symbols))) for name in LOOP_NETWORKS
            )
            loaded.callback(self._forget_engines)
            for engine in self._engines:
                self._bind(engine)
                engine.warm_up(self._device.stream, capture=not self._eager)
            self._launch = self._step if self._eager else self._captured(loaded)
            self._loaded.push(loaded.pop_all())

    @property
    def is_loaded(self) -> bool:
        """Whether the engines are there."""
        return bool(self._engines)

    def unload(self) -> None:
        """Release graph and engines, and with the last loop the networks' weights; buffers and contents stay."""
        self._loaded.close()

    @property
    def latents_buffer(self) -> Buffer:
        """The latents of all slots, f32 [B, 4, h, w], for engines that take them where they are."""
        return self._buffers["latents"]

    @property
    def outputs(self) -> list[tuple[str, str, Buffer]]:
        """All that a call computes, in the order in which it does: network, name of its output, and the buffer."""
        return [
            (engine.contract.name, spec.name, self._buffers[spec.name])
            for engine in self._engines
            for spec in engine.contract.outputs
        ]

    def load_slot(self, slot: int, inputs: SlotInputs) -> None:
        """Put one slot's inputs on the stream and set its step counter to 0; other slots are not touched."""
        _check_rows(inputs)
        for source in SLOT_SOURCES:
            value, buffer = source.value(inputs), self._buffers[source.buffer]
            if source.place == "guidance":
                for row in range(self.shape.guidance_batch):
                    self._fill(buffer.at(row, slot), _entry(value, row))
            elif source.place == "slot":
                self._fill(buffer.at(slot), value)
            elif value.shape[0]:
                self._fill(buffer.at(slot).rows(value.shape[0]), value)
        for name, mask in inputs.masks.items():
            self._fill(self._buffers[name].at(slot), mask[None])

    def run(
        self, calls: int, on_call: Progress | None = None, cancelled: Callable[[], bool] | None = None
    ) -> LoopTimes:
        """:meth:`launch`, then wait for the last call."""
        return self.launch(calls, on_call, cancelled).finish()

    def launch(
        self,
        calls: int,
        on_call: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
        in_flight: int = IN_FLIGHT,
    ) -> LoopRun:
        """Launch the graph ``calls`` times; at most ``in_flight`` of them are unfinished at any time.

        Another run may be launched before this one is finished: each has events of its own.

        The host never waits for the stream: it looks at events, and sleeps while too many calls are unfinished.

        Args:
            calls: network calls, the largest row count of the loaded tables.
            on_call: called with (calls done, calls in all) after each one.
            cancelled: asked before each launch and while waiting.
            in_flight: with 1, ``on_call`` finds each call's own results in the buffers.

        Raises:
            CancelledError: ``cancelled`` answered yes; calls in flight still finish.
        """
        stream = self._device.stream
        marks = self._take_marks(calls + 1)
        run = LoopRun(marks, on_call, cancelled)
        finalize(run, self._idle_marks.extend, marks)  # times may be read as long as the run is there
        stream.record(marks[0])
        for call in range(1, calls + 1):
            start, busy, waited = perf_counter_ns(), self._busy_ns(), run.waited_ns
            run.follow(call - in_flight)
            self._launch()
            stream.record(marks[call])
            run.launched = call
            idle = self._busy_ns() - busy + run.waited_ns - waited
            run.overhead_us.append((perf_counter_ns() - start - idle) / 1e3)
        return run

    def latents(self) -> npt.NDArray[np.float32]:
        """The latents of all slots as they are now, f32 [B, 4, h, w], a copy."""
        return self._device.download(self._buffers["latents"])

    def close(self) -> None:
        """Release graph, engines and buffers; may be called more than once."""
        self._owned.close()

    def _forget_engines(self) -> None:
        self._engines = ()

    def _take_marks(self, count: int) -> list[Event]:
        """Events that no other run has; new ones only while earlier runs are not over."""
        while len(self._idle_marks) < count:
            self._idle_marks.append(self._owned.enter_context(closing(self._device.event())))
        taken = self._idle_marks[:count]
        del self._idle_marks[:count]
        return taken

    def _captured(self, owned: ExitStack) -> Callable[[], None]:
        return owned.enter_context(closing(self._device.capture(self._step))).launch

    def _step(self) -> None:
        for engine in self._engines:
            engine.enqueue(self._device.stream)
        for source, destination in CARRIED:
            self._device.copy(self._buffers[source], self._buffers[destination])

    def _bind(self, engine: Engine) -> None:
        network = engine.contract
        for spec in (*network.inputs, *network.outputs):
            engine.bind(spec.name, self._buffers[loop_buffer(network.name, spec.name)])

    def _busy_ns(self) -> int:
        return sum(engine.busy_ns for engine in self._engines)

    def _fill(self, buffer: Buffer, values: Array | Buffer) -> None:
        if isinstance(values, np.ndarray):
            self._device.upload(np.asarray(values, buffer.dtype, order="C"), buffer)
        else:
            self._device.copy(values, buffer)


class LoopRun:
    """Follows launched calls by looking at their events.

    Args:
        marks: one event before the first call and one after each.
        on_call: called with (calls done, calls in all).
        cancelled: asked at every look.
    """

    def __init__(self, marks: list[Event], on_call: Progress | None, cancelled: Callable[[], bool] | None) -> None:
        self.launched = 0
        self.waited_ns = 0
        self.overhead_us: list[float] = []
        self._marks = marks
        self._on_call = on_call
        self._cancelled = cancelled
        self._done = 0

    def follow(self, until: int) -> None:
        """Tell progress until so many calls are done.

        Raises:
            CancelledError: the caller cancelled before all calls were done.
        """
        total, blocked_since = len(self._marks) - 1, 0
        while True:
            self._tell(total)
            if self._done == total:
                break
            if self._cancelled is not None and self._cancelled():
                raise CancelledError("the request was cancelled", found=f"{self._done} of {total} calls done")
            if self._done >= until:
                break
            blocked_since = blocked_since or perf_counter_ns()
            sleep(POLL_S)
        if blocked_since:
            self.waited_ns += perf_counter_ns() - blocked_since

    def finish(self) -> LoopTimes:
        """Follow all calls to their end."""
        self.follow(len(self._marks) - 1)
        spans = zip(self._marks[1:], self._marks, strict=False)
        return LoopTimes(tuple(after.ms_since(before) for after, before in spans), tuple(self.overhead_us))

    def _tell(self, total: int) -> None:
        while self._done < self.launched and self._marks[self._done + 1].is_done:
            self._done += 1
            if self._on_call is not None:
                self._on_call(self._done, total)


def _entry(values: Array | Buffer, index: int) -> Array | Buffer:
    return values[index] if isinstance(values, np.ndarray) else values.at(index)


def _check_rows(inputs: SlotInputs) -> None:
    rows = len(inputs.table.rows)
    for embeddings in (inputs.time_embeddings_unet, inputs.time_embeddings_identitynet):
        if embeddings.shape[0] != rows:
            raise ValueError(f"{embeddings.shape[0]} time embeddings for {rows} rows of the step table")


def _loop_specs(
    identitynet: tuple[TensorSpec, ...], unet: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> dict[str, TensorSpec]:
    specs = {loop_buffer("identitynet", s.name): s for s in identitynet}
    return specs | {loop_buffer("unet", s.name): s for s in (*unet, *outputs)}


def _hold_after(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The full table: ``rows``, then rows that hold a finished slot's latents while others go on."""
    table = np.tile(HOLD_ROW, (STEP_ROWS, 1)).astype(np.float32)
    table[: len(rows)] = rows
    return table
