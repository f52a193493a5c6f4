"""A request in, pictures out: the lean InstantID runtime."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt.bundle import Bundle
from instantrt.cache import BoundedCache
from instantrt.conditioning.cached_faces import CachedFaceStage
from instantrt.conditioning.conditions import Conditions, condition_masks
from instantrt.denoise import IN_FLIGHT, LOOP_NETWORKS, DenoiseLoop, LoopShape, LoopTimes, Progress, SlotInputs
from instantrt.diagnosis import not_finite_error
from instantrt.engine import Target, TargetOptions
from instantrt.finite import all_finite, require_finite
from instantrt.network import Network
from instantrt.noise import TorchGenerator
from instantrt.prepare import Preparation, Prepared, request_table
from instantrt.request import GenerateRequest
from instantrt.result import GenerateResult, Timings
from instantrt.samplers import StepTable
from instantrt.stages import StageClock
from instantrt.targets import open_target
from instantrt.turns import Turns

MAX_LOOPS = 4  # shapes whose engines, buffers and graphs are kept


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


class InstantID:
    """Generates pictures of a person from a bundle. Use :meth:`load`; usable as a context manager.

    One request runs at a time; calls from several threads wait for each other. A call from the request's own callbacks
    would wait for itself and is an error.
    """

    def __init__(self, bundle: Bundle, target: Target, *, eager: bool = False) -> None:
        self.bundle = bundle
        self._target = target
        self._eager = eager
        self._turns = Turns("the pipeline")
        self._loops: BoundedCache[LoopShape, DenoiseLoop] = BoundedCache(MAX_LOOPS, DenoiseLoop.close)
        with ExitStack() as owned:
            owned.callback(target.close)
            self._clock = owned.enter_context(closing(StageClock(target.device)))
            self.conditions = owned.enter_context(closing(Conditions(bundle, target)))
            self._preparation = owned.enter_context(Preparation(bundle, target))
            vae = Network(target, bundle.contracts["vae_decoder"], bundle.precision)
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
        eager: bool = False,
    ) -> InstantID:
        """Open a bundle and load its networks.

        Args:
            bundle: the bundle's folder.
            target: what executes the networks, a key of :data:`instantrt.targets.TARGETS`.
            threads: CPU threads that one network may use, capped to the usable CPUs with a warning in the results; None
                leaves it to the target (``onnxruntime`` only).
            device: ordinal of the GPU; None takes the first (targets on GPUs only).
            weight_budget_bytes: device memory for the weights of each network that was built for weight streaming; the
                rest stays on the host. None keeps all on the device (TensorRT targets only).
            runtime_cache: folder for kernels that were compiled on this machine; None takes the plans' own folder
                (``tensorrt-rtx`` only).
            eager: put each step on the stream anew instead of replaying a captured graph, for debugging.

        Raises:
            BundleError: the folder is not a complete, unaltered bundle.
            PlanError: a plan is missing, altered, or made for something else.
            MissingExtraError: the target's packages are not installed.
            RequestError: an unknown target, or an option that it lacks.
        """
        opened = Bundle.open(bundle)
        options = TargetOptions(threads, device, weight_budget_bytes, runtime_cache)
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
            prepared = self._preparation.prepare(request, self._clock.stage)
            return self._generate(prepared, RunOptions(progress, cancelled, keep_latents))

    def prepare(self, request: GenerateRequest) -> Prepared:
        """Only the photo and face stages of a request."""
        with self._turns.take():
            self._clock.restart()
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
        slots, warnings = self._slots(prepared, table, loop.shape.guidance_batch)
        batches = [slots[i : i + loop.shape.slots] for i in range(0, len(slots), loop.shape.slots)]
        made = [
            self._denoise(loop, batch, options.of_batch(number, len(batches))) for number, batch in enumerate(batches)
        ]
        return GenerateResult(
            np.concatenate([batch.pixels for batch in made]),
            np.concatenate([batch.latents for batch in made]),
            prepared.seed,
            prepared.identity.keypoints,
            self._target.warnings + prepared.identity.warnings + warnings,
            _timings(self._clock.read_ms(), [batch.times for batch in made]),
            np.concatenate([batch.latents_per_call for batch in made], axis=1) if options.keep_latents else None,
        )

    def _denoise(self, loop: DenoiseLoop, batch: list[SlotInputs], options: RunOptions) -> _Batch:
        """Load slots, launch the loop, decode. Nothing is waited for before all work is on the stream."""
        stage, device, calls = self._clock.stage, self._target.device, max(len(inputs.table.rows) for inputs in batch)
        with stage("upload"):
            for slot, inputs in enumerate(batch):
                loop.load_slot(slot, inputs)
        kept: list[npt.NDArray[np.float32]] = []

        def keep(done: int, total: int) -> None:
            kept.append(loop.latents()[: len(batch)])
            options.report(done, total)

        on_call, in_flight = (keep, 1) if options.keep_latents else (options.progress, IN_FLIGHT)
        with stage("denoise"):
            run = loop.launch(calls, on_call, options.cancelled, in_flight)
        with stage("decode"):
            decoded = self._vae.run({"latents": loop.latents_buffer})
        times = run.finish()
        with stage("download"):
            pixels, latents, magnitude = (
                values[: len(batch)]
                for values in device.download_all([decoded["images"], loop.latents_buffer, decoded["magnitude"]])
            )
        if not all_finite(latents):
            raise not_finite_error(device, loop, batch, calls, options.cancelled)
        require_finite("vae_decoder", "images", magnitude)
        return _Batch(pixels, latents, times, np.array(kept, np.float32))

    def _slots(
        self, prepared: Prepared, table: StepTable, guidance_batch: int
    ) -> tuple[list[SlotInputs], tuple[str, ...]]:
        """One slot's inputs for each sample, and warnings about the prompt."""
        request, conditions, stage = prepared.request, self.conditions, self._clock.stage
        with stage("text"):
            text = conditions.text(prepared.prompt, prepared.negative_prompt, guidance_batch)
        with stage("conditioning"):
            face_tokens = conditions.face_tokens(prepared.identity.embedding, guidance_batch)
            features = conditions.control_features(prepared.identity.control_image)
            kv = conditions.cross_attention(text.tokens, face_tokens)
            times = conditions.time_embeddings(table, text.pooled, prepared.width, prepared.height)
            masks = condition_masks(
                self.bundle.dims, prepared.region, request.identity_strength, request.adapter_strength
            )
        with stage("noise"):
            latents, noise = self._noise(prepared, table)
        return [
            SlotInputs(
                table=table,
                latents=latents[sample],
                noise=noise[:, sample],
                time_embeddings_unet=times.unet,
                time_embeddings_identitynet=times.identitynet,
                text_kv_unet=kv.text_kv_unet,
                face_kv_unet=kv.face_kv_unet,
                face_kv_identitynet=kv.face_kv_identitynet,
                control_features=features,
                masks=masks,
            )
            for sample in range(request.samples)
        ], text.warnings

    def _noise(self, prepared: Prepared, table: StepTable) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Initial latents [samples, 4, h, w] and step noise [draws, samples, 4, h, w], drawn as diffusers does."""
        dims = self.bundle.dims
        shape = (
            prepared.request.samples,
            dims.latent_channels,
            prepared.height // dims.vae_stride,
            prepared.width // dims.vae_stride,
        )
        generator = TorchGenerator(prepared.seed)
        latents = generator.randn(shape) * np.float32(table.init_noise_sigma)
        noise = np.empty((table.noise_draws, *shape), np.float32)
        for draw in noise:
            draw[:] = generator.randn(shape)
        return latents, noise

    def _loop(self, request: GenerateRequest, width: int, height: int) -> DenoiseLoop:
        shape = self._shape(request, width, height)
        target, bundle, eager = self._target, self.bundle, self._eager
        return self._loops.get(shape, lambda: DenoiseLoop(target, bundle.dims, bundle.precision, shape, eager=eager))

    def _shape(self, request: GenerateRequest, width: int, height: int) -> LoopShape:
        """The shape nearest to the request's that the target has: rather idle slots than several batches."""
        samples = request.samples
        most = max(samples, self.bundle.manifest.slots[1])
        slots = [*range(samples, most + 1), *range(samples - 1, 0, -1)]
        shapes = [LoopShape(s, g, height, width) for g, s in product(range(request.guidance_batch, 3), slots)]
        # With none, the first one's loading says what there is instead.
        return next((s for s in shapes if all(self._target.accepts(n, s.symbols) for n in LOOP_NETWORKS)), shapes[0])


def _timings(stages_ms: dict[str, float], times: list[LoopTimes]) -> Timings:
    call_ms = tuple(ms for t in times for ms in t.call_ms)
    overhead_us = tuple(us for t in times for us in t.overhead_us)
    return Timings(stages_ms, call_ms, overhead_us)
