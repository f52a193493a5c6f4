"""The step loop: two engines and three copies, captured once per shape and launched once per network call.

All that differs between requests - sampler, step count, guidance scale, strengths, masks, seed, text, face - is data in
the loop's buffers, so one captured graph serves every request of the same (slots, guidance halves, height, width).
Slots are independent of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt.contracts import NOISE_ROWS, STEP_ROWS, ModelDims, Precision, TensorSpec, network_contracts
from instantrt.device import Buffer, Device
from instantrt.engine import Engine, Target
from instantrt.errors import CancelledError
from instantrt.samplers import HOLD_ROW, StepTable

Array = npt.NDArray[Any]
Progress = Callable[[int, int], None]

# After each call the unet's outputs become its next inputs.
CARRIED = (("next_latents", "latents"), ("next_history", "history"), ("next_step", "step"))


@dataclass(frozen=True)
class LoopShape:
    """What a captured graph is fixed to."""

    slots: int
    halves: int
    height: int
    width: int

    @property
    def symbols(self) -> dict[str, int]:
        """The contract symbols in numbers."""
        return {"B": self.slots, "G": self.halves, "H": self.height, "W": self.width}


@dataclass(frozen=True)
class SlotInputs:
    """Everything one slot needs for its whole loop. G guidance halves; h = H/8, w = W/8.

    Args:
        table: the sampler's rows, n of them.
        latents: f32 [4, h, w], noise already times ``table.init_noise_sigma``.
        noise: f32 [draws, 4, h, w], row i is added at step i by stochastic samplers.
        time_embeddings_unet: [n, G, width].
        time_embeddings_identitynet: [n, G, width].
        text_tokens: [G, 77, width].
        face_tokens: [G, 16, width].
        control_features: [channels, h, w].
        masks: by input name, e.g. ``control_mask_8`` f32 [H/8, W/8], strengths multiplied in.
    """

    table: StepTable
    latents: Array
    noise: Array
    time_embeddings_unet: Array
    time_embeddings_identitynet: Array
    text_tokens: Array
    face_tokens: Array
    control_features: Array
    masks: Mapping[str, Array]


@dataclass(frozen=True)
class LoopTimes:
    """Host times of one run of the loop, one entry per network call."""

    call_ms: tuple[float, ...]
    overhead_us: tuple[float, ...]  # time of each call spent outside the engines


class DenoiseLoop:
    """The loop of one shape: loads its engines, allocates and binds its buffers, captures its graph.

    Args:
        target: makes the engines and owns the device.
        dims: the bundle's sizes.
        precision: the bundle's network dtype.
        shape: slots, guidance halves and picture size.
    """

    def __init__(self, target: Target, dims: ModelDims, precision: Precision, shape: LoopShape) -> None:
        self.shape = shape
        self._device: Device = target.device
        contracts = network_contracts(dims)
        self._specs = _loop_specs(contracts["identitynet"].inputs, contracts["unet"].inputs, contracts["unet"].outputs)
        self._buffers: dict[str, Buffer] = {
            name: self._device.allocate(spec.resolve(shape.symbols), spec.numpy_dtype(precision))
            for name, spec in self._specs.items()
        }
        self._identitynet = target.load("identitynet", shape.symbols)
        self._unet = target.load("unet", shape.symbols)
        self._bind(self._identitynet)
        self._bind(self._unet)
        self._graph = self._device.capture(self._step)

    def load_slot(self, slot: int, inputs: SlotInputs) -> None:
        """Upload one slot's inputs and set its step counter to 0; other slots are not touched."""
        rows = len(inputs.table.rows)
        put = self._put
        put("latents", inputs.latents, slot)
        put("history", np.zeros_like(inputs.latents), slot)
        put("step", np.zeros((), np.int32), slot)
        put("step_table", _hold_after(inputs.table.rows), slot)
        if len(inputs.noise):
            self._put_rows("noise", inputs.noise[:NOISE_ROWS], slot)
        for network in ("unet", "identitynet"):
            embeddings: Array = getattr(inputs, f"time_embeddings_{network}")
            if len(embeddings) != rows:
                raise ValueError(f"{len(embeddings)} time embeddings for {rows} rows of the step table")
            self._put_rows(f"time_embeddings_{network}", embeddings, slot)
        for half in range(self.shape.halves):
            put("text_tokens", inputs.text_tokens[half], half, slot)
            put("face_tokens", inputs.face_tokens[half], half, slot)
        put("control_features", inputs.control_features, slot)
        for name, mask in inputs.masks.items():
            put(name, mask[None], slot)

    def run(
        self, calls: int, on_call: Progress | None = None, cancelled: Callable[[], bool] | None = None
    ) -> LoopTimes:
        """Launch the graph ``calls`` times.

        Args:
            calls: network calls, the largest row count of the loaded tables.
            on_call: told (calls done, calls in all) after each one.
            cancelled: asked before each call.

        Raises:
            CancelledError: ``cancelled`` answered yes.
        """
        call_ms, overhead_us = [], []
        busy = self._busy_ns()
        start = perf_counter_ns()
        for call in range(1, calls + 1):
            if cancelled is not None and cancelled():
                raise CancelledError("the request was cancelled", found=f"{call - 1} of {calls} calls done")
            self._graph.launch()
            if on_call is not None:
                on_call(call, calls)
            end, busy_after = perf_counter_ns(), self._busy_ns()
            call_ms.append((end - start) / 1e6)
            overhead_us.append((end - start - busy_after + busy) / 1e3)
            start, busy = end, busy_after
        return LoopTimes(tuple(call_ms), tuple(overhead_us))

    def latents(self) -> npt.NDArray[np.float32]:
        """The latents of all slots as they are now, f32 [B, 4, h, w], a copy."""
        return self._device.download(self._buffers["latents"])

    def close(self) -> None:
        """Release the engines; may be called more than once."""
        self._identitynet.close()
        self._unet.close()

    def _step(self) -> None:
        self._identitynet.enqueue(self._device.stream)
        self._unet.enqueue(self._device.stream)
        for source, destination in CARRIED:
            self._device.copy(self._buffers[source], self._buffers[destination])

    def _bind(self, engine: Engine) -> None:
        network = engine.contract
        for spec in (*network.inputs, *network.outputs):
            engine.bind(spec.name, self._buffers[_buffer_name(network.name, spec.name)])

    def _busy_ns(self) -> int:
        return self._identitynet.busy_ns + self._unet.busy_ns

    def _put(self, name: str, array: Array, *index: int) -> None:
        buffer = self._buffers[name].at(*index)
        self._device.upload(np.asarray(array, buffer.dtype, order="C"), buffer)

    def _put_rows(self, name: str, array: Array, slot: int) -> None:
        buffer = self._buffers[name].at(slot).rows(len(array))
        self._device.upload(np.asarray(array, buffer.dtype, order="C"), buffer)


def _buffer_name(network: str, tensor: str) -> str:
    """Networks share buffers by tensor name, except the time embeddings, of which each network has its own."""
    return f"{tensor}_{network}" if tensor == "time_embeddings" else tensor


def _loop_specs(
    identitynet: tuple[TensorSpec, ...], unet: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> dict[str, TensorSpec]:
    specs = {_buffer_name("identitynet", s.name): s for s in identitynet}
    return specs | {_buffer_name("unet", s.name): s for s in (*unet, *outputs)}


def _hold_after(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The full table: ``rows``, then rows that hold a finished slot's latents while others go on."""
    table = np.tile(HOLD_ROW, (STEP_ROWS, 1)).astype(np.float32)
    table[: len(rows)] = rows
    return table
