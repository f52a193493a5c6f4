"""A request in, pictures out: the lean InstantID runtime."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt.bundle import Bundle
from instantrt.conditioning.cache import CachedFaceStage
from instantrt.conditioning.conditions import Conditions, condition_masks
from instantrt.conditioning.face import FaceStage
from instantrt.conditioning.identity import Identity, identity_from_photos
from instantrt.conditioning.photo import decode_photo
from instantrt.conditioning.styles import apply_style
from instantrt.denoise import IN_FLIGHT, LOOP_NETWORKS, DenoiseLoop, LoopShape, LoopTimes, Progress, SlotInputs
from instantrt.engine import Target, TargetOptions
from instantrt.network import Network
from instantrt.noise import TorchGenerator
from instantrt.request import MAX_SEED, RANDOM_SEED, GenerateRequest
from instantrt.result import GenerateResult, Timings
from instantrt.samplers import StepTable, step_table
from instantrt.stages import StageClock
from instantrt.targets import open_target

MAX_LOOPS = 4  # shapes whose engines, buffers and graphs are kept


@dataclass(frozen=True)
class Prepared:
    """A request after its photos, style and seed are warmed_up and before any diffusion network runs.

    The reference pipeline starts from the same point, so both see the same inputs.
    """

    request: GenerateRequest
    prompt: str
    negative_prompt: str | None
    seed: int
    width: int
    height: int
    identity: Identity

    @property
    def region(self) -> npt.NDArray[np.float32]:
        """Where identity control acts, f32 [H, W]: the face box, or everywhere without ``enhance_face_region``."""
        if self.request.enhance_face_region:
            return self.identity.region
        return np.ones((self.height, self.width), np.float32)


class InstantID:
    """Generates pictures of a person from a bundle. Use :meth:`load`; usable as a context manager.

    One request runs at a time; calls from several threads wait for each other.
    """

    def __init__(self, bundle: Bundle, target: Target, *, eager: bool = False) -> None:
        self.bundle = bundle
        self._target = target
        self._eager = eager
        self._lock = Lock()
        self._loops: OrderedDict[LoopShape, DenoiseLoop] = OrderedDict()
        with ExitStack() as owned:
            owned.callback(target.close)
            self._clock = owned.enter_context(closing(StageClock(target.device)))
            self.conditions = owned.enter_context(closing(Conditions(bundle, target)))
            detector, encoder, self._vae = (
                owned.enter_context(closing(Network(target, bundle.contracts[name], bundle.precision)))
                for name in ("face_detector", "face_encoder", "vae_decoder")
            )
            self.faces = CachedFaceStage(FaceStage(bundle.dims, detector, encoder))
            owned.callback(self._close_loops)
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
            threads: CPU threads that one network may use; None leaves it to the target (``onnxruntime`` only).
            device: ordinal of the GPU; None takes the first (TensorRT targets only).
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
            progress: told (network calls done, calls in all) after each call of the loop.
            cancelled: asked before each call; answering True stops the request.
            keep_latents: also return the latents after every call, for which each call is waited for.

        Raises:
            PhotoError: a photo is unreadable or shows no face.
            RequestError: the request does not fit the bundle.
            CancelledError: ``cancelled`` answered True.
        """
        with self._lock:
            self._clock.restart()
            return self._generate(self._prepare(request), progress, cancelled, keep_latents)

    def prepare(self, request: GenerateRequest) -> Prepared:
        """Only the photo and face stages of a request."""
        with self._lock:
            self._clock.restart()
            return self._prepare(request)

    def close(self) -> None:
        """Release everything; may be called more than once."""
        self._owned.close()

    def __enter__(self) -> InstantID:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self, request: GenerateRequest) -> Prepared:
        width, height = request.width, request.height
        if width is None or height is None:
            width, height = self.bundle.manifest.sizes.default
        self.bundle.manifest.sizes.check(width, height)
        prompt, negative_prompt = apply_style(request.style, request.prompt, request.negative_prompt)
        with self._clock.stage("photo"):
            photo = decode_photo(request.face)
            pose = None if request.pose is None else decode_photo(request.pose)
        with self._clock.stage("face"):
            identity = identity_from_photos(self.faces, photo, pose, width, height)
        seed = secrets.randbelow(MAX_SEED + 1) if request.seed == RANDOM_SEED else request.seed
        return Prepared(request, prompt, negative_prompt, seed, width, height, identity)

    def _generate(
        self,
        prepared: Prepared,
        progress: Progress | None,
        cancelled: Callable[[], bool] | None,
        keep_latents: bool,
    ) -> GenerateResult:
        request, stage = prepared.request, self._clock.stage
        table = step_table(request.sampler, request.steps, request.guidance_scale, self.bundle.scheduler)
        with stage("load"):
            loop = self._loop(prepared)
        slots, warnings = self._slots(prepared, table, loop.shape.guidance_batch)
        calls = len(table.rows)
        batches = [slots[i : i + loop.shape.slots] for i in range(0, len(slots), loop.shape.slots)]
        pixels, latents, times = [], [], []
        steps: list[list[npt.NDArray[np.float32]]] = []  # by batch
        for index, batch in enumerate(batches):
            with stage("upload"):
                for slot, inputs in enumerate(batch):
                    loop.load_slot(slot, inputs)
            told, in_flight = _shifted(progress, index * calls, len(batches) * calls), IN_FLIGHT
            if keep_latents:
                steps.append([])
                told, in_flight = _keeping(told, loop, steps[-1]), 1
            with stage("denoise"):
                run = loop.launch(calls, told, cancelled, in_flight)
            with stage("decode"):
                images = self._vae.run({"latents": loop.latents_buffer})["images"]
            times.append(run.finish())
            with stage("download"):
                found = self._target.device.download_all([images, loop.latents_buffer])
            pixels.append(found[0][: len(batch)])
            latents.append(found[1][: len(batch)])
        return GenerateResult(
            np.concatenate(pixels),
            np.concatenate(latents),
            prepared.seed,
            prepared.identity.keypoints,
            prepared.identity.warnings + warnings,
            _timings(self._clock.read_ms(), times),
            np.concatenate([np.stack(batch) for batch in steps], axis=1)[:, : len(slots)] if keep_latents else None,
        )

    def _slots(
        self, prepared: Prepared, table: StepTable, guidance_batch: int
    ) -> tuple[list[SlotInputs], tuple[str, ...]]:
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
                time_embeddings_unet=times["unet"],
                time_embeddings_identitynet=times["identitynet"],
                text_kv_unet=kv["text_kv_unet"],
                face_kv_unet=kv["face_kv_unet"],
                face_kv_identitynet=kv["face_kv_identitynet"],
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

    def _loop(self, prepared: Prepared) -> DenoiseLoop:
        shape = self._shape(prepared)
        loop = self._loops.pop(shape, None)
        if loop is None:
            if len(self._loops) >= MAX_LOOPS:
                self._loops.popitem(last=False)[1].close()
            loop = DenoiseLoop(self._target, self.bundle.dims, self.bundle.precision, shape, eager=self._eager)
        self._loops[shape] = loop
        return loop

    def _shape(self, prepared: Prepared) -> LoopShape:
        """The shape nearest to the request's that the target has: rather idle slots than several batches."""
        samples, guidance_batch = prepared.request.samples, 2 if prepared.request.guidance_scale > 1 else 1
        most = max(samples, self.bundle.manifest.slots[1])
        slots = [*range(samples, most + 1), *range(samples - 1, 0, -1)]
        shapes = [LoopShape(s, g, prepared.height, prepared.width) for g, s in product(range(guidance_batch, 3), slots)]
        # With none, the first one's loading says what there is instead.
        return next((s for s in shapes if all(self._target.accepts(n, s.symbols) for n in LOOP_NETWORKS)), shapes[0])

    def _close_loops(self) -> None:
        while self._loops:
            self._loops.popitem()[1].close()


def _shifted(progress: Progress | None, done: int, total: int) -> Progress | None:
    """Progress over all batches of a request."""
    if progress is None:
        return None
    return lambda call, _calls: progress(done + call, total)


def _keeping(progress: Progress | None, loop: DenoiseLoop, steps: list[npt.NDArray[np.float32]]) -> Progress:
    """Progress that also appends the latents of all slots to ``steps``."""

    def told(done: int, total: int) -> None:
        steps.append(loop.latents())
        if progress is not None:
            progress(done, total)

    return told


def _timings(stages_ms: dict[str, float], times: list[LoopTimes]) -> Timings:
    call_ms = tuple(ms for t in times for ms in t.call_ms)
    overhead_us = tuple(us for t in times for us in t.overhead_us)
    return Timings(stages_ms, call_ms, overhead_us)
