"""A request in, pictures out: the lean InstantID runtime."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt.bundle import Bundle
from instantrt.cache import BoundedCache
from instantrt.conditioning.cached_faces import CachedFaceStage
from instantrt.conditioning.conditions import Conditions
from instantrt.contracts import Stage
from instantrt.denoise import (
    IN_FLIGHT,
    MAX_LOOPS,
    DenoiseLoop,
    LoopRun,
    LoopShape,
    LoopTimes,
    Progress,
    SlotInputs,
)
from instantrt.device import Buffer
from instantrt.diagnosis import not_finite_error
from instantrt.engine import OpenVinoDevice, PrecisionHint, Target, TargetOptions
from instantrt.finite import all_finite, require_finite
from instantrt.network import Network
from instantrt.prepare import Preparation, Prepared, request_table
from instantrt.request import GenerateRequest
from instantrt.residency import Loading, ResidencyOption
from instantrt.result import GenerateResult, Timings
from instantrt.slots import first_accepted, slot_inputs
from instantrt.stages import StageClock
from instantrt.targets import open_target
from instantrt.turns import Turns


@dataclass(frozen=True)
class RunOptions:
    """What a caller wants of a run besides pictures; see :meth:`InstantID.run`."""

    progress: Progress | None = None
    cancelled: Callable[[], bool] | None = None
    keep_latents: bool = False

    def report(self, done: int, total: int) -> None:
        """Hand on how many network calls are done."""
        if self.progress is not None:
            self.progress(done, total)

    def of_batch(self, number: int, batches: int) -> RunOptions:
        """For one of several batches of slots, whose progress is that of all of them."""
        if self.progress is None or batches == 1:
            return self
        return replace(self, progress=lambda done, total: self.report(number * total + done, batches * total))


@dataclass(frozen=True)
class _Batch:
    """What one batch of slots gave: pixels u8 [n, H, W, 3], latents f32 [n, 4, h, w], and those after each call."""

    pixels: npt.NDArray[np.uint8]
    latents: npt.NDArray[np.float32]
    times: LoopTimes
    latents_per_call: npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Launched:
    """A batch of slots whose network calls are on the stream; ``kept`` are the latents after each of them, if asked."""

    batch: list[SlotInputs]
    calls: int
    run: LoopRun
    kept: list[npt.NDArray[np.float32]]
    options: RunOptions


class InstantID:
    """Generates pictures of a person from a bundle. Use :meth:`load`; usable as a context manager.

    One request runs at a time; calls from several threads wait for each other. A call from the request's own callbacks
    would wait for itself and is an error.
    """

    def __init__(self, bundle: Bundle, target: Target, *, eager: bool = False) -> None:
        self.bundle = bundle
        self._target = target
        self._eager = eager
        self._staged = target.residency == "staged"
        self._turns = Turns("the pipeline")
        self._loops: BoundedCache[LoopShape, DenoiseLoop] = BoundedCache(MAX_LOOPS, DenoiseLoop.close)
        with ExitStack() as owned:
            owned.callback(target.close)
            self._clock = owned.enter_context(closing(StageClock(target.device)))
            on_demand: Loading | None = partial(self._clock.stage, "load") if self._staged else None
            self.conditions = owned.enter_context(closing(Conditions(bundle, target, on_demand)))
            self._preparation = owned.enter_context(Preparation(bundle, target, on_demand))
            vae = Network(target, bundle.contracts["vae_decoder"], bundle.precision, on_demand)
            self._vae = owned.enter_context(closing(vae))
            owned.callback(self._loops.clear)
            self._owned = owned.pop_all()

    @classmethod
    def load(
        cls,
        bundle: str | Path,
        *,
        target: str = "onnxruntime",
        threads: int | None = None,
        device: int | None = None,
        weight_budget_bytes: int | None = None,
        runtime_cache: Path | None = None,
        residency: ResidencyOption | None = None,
        precision_hint: PrecisionHint | None = None,
        openvino_device: OpenVinoDevice | None = None,
        eager: bool = False,
    ) -> InstantID:
        """Open a bundle and load its networks.

        Args:
            bundle: the bundle's folder.
            target: what executes the networks, a key of :data:`instantrt.targets.TARGETS`.
            threads: CPU threads that one network may use, capped to the usable CPUs with a warning in the results; None
                leaves it to the target (``onnxruntime`` and ``openvino`` only).
            device: ordinal of the GPU, or of one of several OpenVINO devices of a kind; None takes the first (targets
                on GPUs and ``openvino`` only).
            weight_budget_bytes: device memory for the weights of each network that was built for weight streaming; the
                rest stays on the host. None keeps all on the device (TensorRT targets only).
            runtime_cache: folder for what was compiled on this machine. None takes the plans' own folder for
                ``tensorrt-rtx`` and keeps nothing for ``openvino``; other targets have none.
            residency: how long weights stay loaded, see :data:`instantrt.residency.RESIDENCIES`. None and ``resident``
                load all of them once. ``staged`` loads those of conditioning, denoise and decode in turn, for which
                every request pays (``stages_ms["load"]``). ``streaming`` keeps in host memory what does not fit
                (TensorRT targets; plans must be built with ``--weight-streaming``; implies ``eager``). ``auto`` takes
                the first of these that fits into the memory that is free now (TensorRT targets only).
            precision_hint: what networks compute in, ``f32`` unless ``bf16`` is asked for, which is faster where the
                CPU has it in hardware and moves results by about 1e-2 (``openvino`` only).
            openvino_device: ``CPU`` unless asked otherwise; ``GPU`` and ``NPU`` are Intel's and have not run yet
                (``openvino`` only).
            eager: put each step on the stream anew instead of replaying a captured graph, for debugging.

        Raises:
            BundleError: the folder is not a complete, unaltered bundle.
            PlanError: a plan is missing, altered, or made for something else.
            MissingExtraError: the target's packages are not installed.
            DeviceError: there is no such device, it cannot compute so, or it has not enough free memory.
            RequestError: an unknown target, or an option that it lacks.
        """
        opened = Bundle.open(bundle)
        options = TargetOptions(
            threads, device, weight_budget_bytes, runtime_cache, residency, precision_hint, openvino_device
        )
        return cls(opened, open_target(target, opened, options), eager=eager)

    def generate(
        self,
        *,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
        **fields: Any,
    ) -> GenerateResult:
        """:meth:`run` a request given as the fields of :class:`GenerateRequest`: ``generate(face=..., prompt=...)``."""
        return self.run(GenerateRequest(**fields), progress=progress, cancelled=cancelled)

    def run(
        self,
        request: GenerateRequest,
        *,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
        keep_latents: bool = False,
    ) -> GenerateResult:
        """Make the pictures that ``request`` asks for.

        Args:
            request: photo, prompt and options.
            progress: called with (network calls done, calls in all) after each call of the loop.
            cancelled: asked before each call; answering True stops the request.
            keep_latents: also return the latents after every call, for which each call is waited for.

        Raises:
            PhotoError: a photo is unreadable or shows no face.
            RequestError: the request does not fit the bundle.
            CancelledError: ``cancelled`` answered True.
            NotFiniteError: a network gave values that are no finite numbers.
            PipelineError: called from ``progress`` or ``cancelled``, or after :meth:`close`.
        """
        with self._turns.take():
            self._clock.restart()
            self._enter("conditioning")
            prepared = self._preparation.prepare(request, self._clock.stage)
            return self._generate(prepared, RunOptions(progress, cancelled, keep_latents))

    def prepare(self, request: GenerateRequest) -> Prepared:
        """Only the photo and face stages of a request."""
        with self._turns.take():
            self._clock.restart()
            self._enter("conditioning")
            return self._preparation.prepare(request, self._clock.stage)

    @property
    def faces(self) -> CachedFaceStage:
        """The face stage, which remembers recent photos."""
        return self._preparation.faces

    def close(self) -> None:
        """Release everything, once a request of another thread is done; may be called more than once.

        Raises:
            PipelineError: called from a request's own callbacks.
        """
        with self._turns.take_last():
            self._owned.close()

    def __enter__(self) -> InstantID:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _generate(self, prepared: Prepared, options: RunOptions) -> GenerateResult:
        request, stage = prepared.request, self._clock.stage
        table = request_table(request, self.bundle.scheduler)
        with stage("load"):
            loop = self._loop(request, prepared.width, prepared.height)
        slots, warnings = slot_inputs(self.bundle, self.conditions, prepared, table, loop.shape.guidance_batch, stage)
        batches = [slots[i : i + loop.shape.slots] for i in range(0, len(slots), loop.shape.slots)]
        runs = [(batch, options.of_batch(number, len(batches))) for number, batch in enumerate(batches)]
        make = self._make_in_stages if self._staged else self._make
        made = make(loop, runs)
        return GenerateResult(
            np.concatenate([batch.pixels for batch in made]),
            np.concatenate([batch.latents for batch in made]),
            prepared.seed,
            prepared.identity.keypoints,
            self._target.warnings + prepared.identity.warnings + warnings,
            _timings(self._clock.read_ms(), [batch.times for batch in made]),
            np.concatenate([batch.latents_per_call for batch in made], axis=1) if options.keep_latents else None,
        )

    def _enter(self, stage: Stage) -> None:
        """Free the weights of the other stages, if stages take turns."""
        if not self._staged:
            return
        with self._clock.stage("load"):
            if stage != "conditioning":
                self._preparation.unload()
                self.conditions.unload()
            if stage != "denoise":
                for loop in self._loops.values():
                    loop.unload()
            if stage != "decode":
                self._vae.unload()

    def _make(self, loop: DenoiseLoop, runs: list[tuple[list[SlotInputs], RunOptions]]) -> list[_Batch]:
        """Load slots, launch the loop, decode. Nothing is waited for before all of a batch's work is on the stream."""
        made = []
        for batch, options in runs:
            launched = self._launch(loop, batch, options)
            decoded = self._decode(loop)
            times = launched.run.finish()
            pixels, latents, magnitude = self._download(
                [decoded["images"], loop.latents_buffer, decoded["magnitude"]], len(batch)
            )
            self._require_finite(loop, launched, latents)
            require_finite("vae_decoder", "images", magnitude)
            made.append(_Batch(pixels, latents, times, np.array(launched.kept, np.float32)))
        return made

    def _make_in_stages(self, loop: DenoiseLoop, runs: list[tuple[list[SlotInputs], RunOptions]]) -> list[_Batch]:
        """All loops, then all pictures: each stage's weights are loaded once, however many batches there are."""
        self._enter("denoise")
        with self._clock.stage("load"):
            loop.load()
        denoised = []
        for batch, options in runs:
            launched = self._launch(loop, batch, options)
            times = launched.run.finish()
            (latents,) = self._download([loop.latents_buffer], loop.shape.slots)
            self._require_finite(loop, launched, latents[: len(batch)])
            denoised.append(_Batch(np.empty(0, np.uint8), latents, times, np.array(launched.kept, np.float32)))
        self._enter("decode")
        made = []
        for (batch, _), before in zip(runs, denoised, strict=True):
            with self._clock.stage("upload"):
                self._target.device.upload(before.latents, loop.latents_buffer)
            decoded = self._decode(loop)
            pixels, magnitude = self._download([decoded["images"], decoded["magnitude"]], len(batch))
            require_finite("vae_decoder", "images", magnitude)
            made.append(replace(before, pixels=pixels, latents=before.latents[: len(batch)]))
        return made

    def _launch(self, loop: DenoiseLoop, batch: list[SlotInputs], options: RunOptions) -> _Launched:
        """Load slots and put all network calls on the stream."""
        calls = max(len(inputs.table.rows) for inputs in batch)
        with self._clock.stage("upload"):
            for slot, inputs in enumerate(batch):
                loop.load_slot(slot, inputs)
        kept: list[npt.NDArray[np.float32]] = []

        def keep(done: int, total: int) -> None:
            kept.append(loop.latents()[: len(batch)])
            options.report(done, total)

        on_call, in_flight = (keep, 1) if options.keep_latents else (options.progress, IN_FLIGHT)
        with self._clock.stage("denoise"):
            run = loop.launch(calls, on_call, options.cancelled, in_flight)
        return _Launched(batch, calls, run, kept, options)

    def _decode(self, loop: DenoiseLoop) -> dict[str, Buffer]:
        with self._clock.stage("decode"):
            return self._vae.run({"latents": loop.latents_buffer})

    def _download(self, buffers: list[Buffer], slots: int) -> list[npt.NDArray[Any]]:
        with self._clock.stage("download"):
            return [values[:slots] for values in self._target.device.download_all(buffers)]

    def _require_finite(self, loop: DenoiseLoop, launched: _Launched, latents: npt.NDArray[np.float32]) -> None:
        if not all_finite(latents):
            device, cancelled = self._target.device, launched.options.cancelled
            raise not_finite_error(device, loop, launched.batch, launched.calls, cancelled)

    def _loop(self, request: GenerateRequest, width: int, height: int) -> DenoiseLoop:
        shape = self._shape(request, width, height)
        target, bundle = self._target, self.bundle
        make = partial(DenoiseLoop, target, bundle.dims, bundle.precision, shape)
        return self._loops.get(shape, partial(make, eager=self._eager, loaded=not self._staged))

    def _shape(self, request: GenerateRequest, width: int, height: int) -> LoopShape:
        """The shape nearest to the request's that the target has: rather idle slots than several batches."""
        samples = request.samples
        most = max(samples, self.bundle.manifest.slots[1])
        slots = [*range(samples, most + 1), *range(samples - 1, 0, -1)]
        return first_accepted(self._target, request.guidance_batch, slots, height, width)


def _timings(stages_ms: dict[str, float], times: list[LoopTimes]) -> Timings:
    call_ms = tuple(ms for t in times for ms in t.call_ms)
    overhead_us = tuple(us for t in times for us in t.overhead_us)
    return Timings(stages_ms, call_ms, overhead_us)
