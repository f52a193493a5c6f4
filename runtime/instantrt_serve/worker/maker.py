"""What the worker does on its device, piece by piece: condition a request, fill slots, run a lane, decode a picture."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt.bundle import Bundle
from instantrt.conditioning.conditions import Conditions
from instantrt.denoise import DenoiseLoop, LoopShape, SlotInputs
from instantrt.device import Buffer, Device
from instantrt.diagnosis import MADE_BY
from instantrt.engine import TargetOptions
from instantrt.errors import NotFiniteError
from instantrt.finite import all_finite, require_finite
from instantrt.network import Network
from instantrt.prepare import Preparation, Prepared, picture_size
from instantrt.request import GenerateRequest
from instantrt.samplers import StepTable
from instantrt.slots import Latents, accepts_loop, first_accepted, slot_inputs
from instantrt.stages import StageClock
from instantrt.targets import open_target
from instantrt_serve.worker.jobs import Photos

Pixels = npt.NDArray[np.uint8]


class PictureMaker:
    """A bundle's networks on one device, but for the denoise loops. A context manager.

    Args:
        bundle: the bundle's folder.
        target: what executes the networks.
        options: of the target.
    """

    def __init__(self, bundle: Path, target: str, options: TargetOptions) -> None:
        self.bundle = Bundle.open(bundle)
        with ExitStack() as owned:
            self.target = open_target(target, self.bundle, options)
            owned.callback(self.target.close)
            self.clock = owned.enter_context(closing(StageClock(self.target.device)))
            self.conditions = owned.enter_context(closing(Conditions(self.bundle, self.target)))
            self.preparation = owned.enter_context(Preparation(self.bundle, self.target))
            vae = Network(self.target, self.bundle.contracts["vae_decoder"], self.bundle.precision)
            self._vae = owned.enter_context(closing(vae))
            self._owned = owned.pop_all()

    @property
    def device(self) -> Device:
        """Where it all runs."""
        return self.target.device

    def size(self, request: GenerateRequest) -> tuple[int, int]:
        """Width and height of a request's pictures.

        Raises:
            RequestError: the bundle does not have that size.
        """
        return picture_size(request, self.bundle.manifest.sizes)

    def shape(self, request: GenerateRequest, slots: int) -> LoopShape:
        """The shape of the lanes for a request: ``slots``, or as many fewer or else more as the target has.

        Raises:
            RequestError: the bundle does not have the request's size.
        """
        width, height = self.size(request)
        counts = [*range(slots, 0, -1), *range(slots + 1, self.bundle.manifest.slots[1] + 1)]
        return first_accepted(self.target, request.guidance_batch, counts, height, width)

    def wider(self, shape: LoopShape, counts: Iterable[int]) -> tuple[LoopShape, ...]:
        """Those shapes like ``shape`` with more slots, of these counts, that the target has."""
        wider = (replace(shape, slots=count) for count in counts if count > shape.slots)
        return tuple(wide for wide in wider if accepts_loop(self.target, wide))

    def open_loop(self, shape: LoopShape, *, loaded: bool = True, shared: DenoiseLoop | None = None) -> DenoiseLoop:
        """A denoise loop; the last arguments are those of :class:`DenoiseLoop`."""
        return DenoiseLoop(self.target, self.bundle.dims, self.bundle.precision, shape, loaded=loaded, shared=shared)

    def prepare(self, request: GenerateRequest, photos: Photos, clock: StageClock) -> Prepared:
        """The face stage of a request, timed by ``clock``.

        Raises:
            PhotoError: no face in one of the photos.
        """
        return self.preparation.prepare_decoded(request, photos.face, photos.pose, clock.stage)

    def condition(
        self, prepared: Prepared, table: StepTable, guidance_batch: int
    ) -> tuple[list[SlotInputs], tuple[str, ...]]:
        """The inputs of a request's slots, valid until the next call, and warnings; see :meth:`kept`."""
        return slot_inputs(self.bundle, self.conditions, prepared, table, guidance_batch, self.clock.stage)

    def kept(self, inputs: SlotInputs) -> SlotInputs:
        """The same inputs in host memory: later requests overwrite the conditioning networks' buffers on the device."""
        values = {name: getattr(inputs, name) for name in MADE_BY}
        on_device: dict[str, Buffer] = {n: v for n, v in values.items() if not isinstance(v, np.ndarray)}
        arrays: dict[str, Any] = dict(zip(on_device, self.device.download_all(list(on_device.values())), strict=True))
        return replace(inputs, **arrays)

    def latents(self, loop: DenoiseLoop, slot: int) -> Latents:
        """A slot's latents as they are now, f32 [4, h, w]."""
        latents: Latents = self.device.download(loop.latents_buffer.at(slot))
        return latents

    def decode(self, latents: Latents) -> Pixels:
        """The picture u8 [H, W, 3] of finished latents f32 [4, h, w].

        Raises:
            NotFiniteError: they, or what the decoder makes of them, are no finite numbers.
        """
        if not all_finite(latents):
            raise NotFiniteError("identitynet or unet", "the latents after the last call")
        decoded = self._vae({"latents": latents[None]})
        require_finite("vae_decoder", "images", decoded["magnitude"])
        pixels: Pixels = decoded["images"][0]
        return pixels

    def close(self) -> None:
        """Release everything; lanes must be closed before. May be called more than once."""
        self._owned.close()

    def __enter__(self) -> PictureMaker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
