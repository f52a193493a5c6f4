"""A request in, pictures out: the lean InstantID runtime."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from time import perf_counter
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt.bundle import Bundle
from instantrt.denoise import DenoiseLoop, LoopShape, LoopTimes, Progress, SlotInputs
from instantrt.engine import Target
from instantrt.network import Network
from instantrt.noise import TorchGenerator
from instantrt.prelude.conditions import Conditions, condition_masks
from instantrt.prelude.face import FaceStage
from instantrt.prelude.identity import Identity, identity_from_photos
from instantrt.prelude.photo import decode_photo
from instantrt.prelude.styles import apply_style
from instantrt.request import MAX_SEED, RANDOM_SEED, GenerateRequest
from instantrt.result import GenerateResult, Timings
from instantrt.samplers import StepTable, step_table
from instantrt.targets import open_target

MAX_LOOPS = 4  # shapes whose engines, buffers and graphs are kept


@dataclass(frozen=True)
class Prepared:
    """A request after its photos, style and seed are settled and before any diffusion network runs.

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

    def __init__(self, bundle: Bundle, target: Target) -> None:
        self.bundle = bundle
        self._target = target
        self._lock = Lock()
        self._loops: OrderedDict[LoopShape, DenoiseLoop] = OrderedDict()
        self._conditions = Conditions(bundle, target)
        self._detector, self._encoder, self._vae = (
            Network(target, bundle.contracts[name], bundle.precision)
            for name in ("face_detector", "face_encoder", "vae_decoder")
        )
        self._faces = FaceStage(bundle.dims, self._detector, self._encoder)

    @classmethod
    def load(cls, bundle: str | Path, *, target: str = "onnxruntime", threads: int | None = None) -> InstantID:
        """Open a bundle and load its networks.

        Args:
            bundle: the bundle's folder.
            target: what executes the networks.
            threads: CPU threads that one network may use; None leaves it to the target.

        Raises:
            BundleError: the folder is not a complete, unaltered bundle.
            MissingExtraError: the target's packages are not installed.
        """
        opened = Bundle.open(bundle)
        return cls(opened, open_target(target, opened, threads))

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
    ) -> GenerateResult:
        """Make the pictures that ``request`` asks for.

        Args:
            request: photo, prompt and options.
            progress: told (network calls done, calls in all) after each call of the loop.
            cancelled: asked before each call; answering True stops the request.

        Raises:
            PhotoError: a photo is unreadable or shows no face.
            RequestError: the request does not fit the bundle.
            CancelledError: ``cancelled`` answered True.
        """
        with self._lock:
            timings = Timings()
            prepared = self._prepare(request, timings)
            return self._generate(prepared, timings, progress, cancelled)

    def prepare(self, request: GenerateRequest) -> Prepared:
        """Only the photo and face stages of a request."""
        with self._lock:
            return self._prepare(request, Timings())

    def close(self) -> None:
        """Release everything; may be called more than once."""
        for loop in self._loops.values():
            loop.close()
        self._loops.clear()
        self._conditions.close()
        for network in (self._detector, self._encoder, self._vae):
            network.close()
        self._target.close()

    def __enter__(self) -> InstantID:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _prepare(self, request: GenerateRequest, timings: Timings) -> Prepared:
        width, height = request.width, request.height
        if width is None or height is None:
            width, height = self.bundle.manifest.sizes.default
        self.bundle.manifest.sizes.check(width, height)
        prompt, negative_prompt = apply_style(request.style, request.prompt, request.negative_prompt)
        with _timed(timings, "decode"):
            photo = decode_photo(request.face)
            pose = None if request.pose is None else decode_photo(request.pose)
        with _timed(timings, "face"):
            identity = identity_from_photos(self._faces, photo, pose, width, height)
        seed = secrets.randbelow(MAX_SEED + 1) if request.seed == RANDOM_SEED else request.seed
        return Prepared(request, prompt, negative_prompt, seed, width, height, identity)

    def _generate(
        self,
        prepared: Prepared,
        timings: Timings,
        progress: Progress | None,
        cancelled: Callable[[], bool] | None,
    ) -> GenerateResult:
        request = prepared.request
        table = step_table(request.sampler, request.steps, request.guidance_scale, self.bundle.scheduler)
        with _timed(timings, "load"):
            loop = self._loop(prepared)
        slots, warnings = self._slots(prepared, table, loop.shape.halves, timings)
        calls = len(table.rows)
        batches = [slots[i : i + loop.shape.slots] for i in range(0, len(slots), loop.shape.slots)]
        pixels, latents, times = [], [], []
        for index, batch in enumerate(batches):
            with _timed(timings, "upload"):
                for slot, inputs in enumerate(batch):
                    loop.load_slot(slot, inputs)
            with _timed(timings, "loop"):
                times.append(loop.run(calls, _shifted(progress, index * calls, len(batches) * calls), cancelled))
                final = loop.latents()
            with _timed(timings, "vae"):
                pixels.append(self._vae({"latents": final})["images"][: len(batch)])
            latents.append(final[: len(batch)])
        _keep(timings, times)
        return GenerateResult(
            np.concatenate(pixels),
            np.concatenate(latents),
            prepared.seed,
            prepared.identity.keypoints,
            prepared.identity.warnings + warnings,
            timings,
        )

    def _slots(
        self, prepared: Prepared, table: StepTable, halves: int, timings: Timings
    ) -> tuple[list[SlotInputs], tuple[str, ...]]:
        request, conditions = prepared.request, self._conditions
        with _timed(timings, "text"):
            text = conditions.text(prepared.prompt, prepared.negative_prompt, halves)
        with _timed(timings, "prelude"):
            face_tokens = conditions.face_tokens(prepared.identity.embedding, halves)
            features = conditions.control_features(prepared.identity.control_image)
            times = conditions.time_embeddings(table, text.pooled, prepared.width, prepared.height)
            masks = condition_masks(
                self.bundle.dims, prepared.region, request.identity_strength, request.adapter_strength
            )
        with _timed(timings, "noise"):
            latents, noise = self._noise(prepared, table)
        return [
            SlotInputs(
                table=table,
                latents=latents[sample],
                noise=noise[:, sample],
                time_embeddings_unet=times["unet"],
                time_embeddings_identitynet=times["identitynet"],
                text_tokens=text.tokens,
                face_tokens=face_tokens,
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
            prepared.height // dims.vae_scale,
            prepared.width // dims.vae_scale,
        )
        generator = TorchGenerator(prepared.seed)
        latents = generator.randn(shape) * np.float32(table.init_noise_sigma)
        noise = np.empty((table.noise_draws, *shape), np.float32)
        for draw in noise:
            draw[:] = generator.randn(shape)
        return latents, noise

    def _loop(self, prepared: Prepared) -> DenoiseLoop:
        manifest, request = self.bundle.manifest, prepared.request
        shape = LoopShape(
            slots=_clamp(request.samples, manifest.slots),
            halves=_clamp(2 if request.guidance_scale > 1 else 1, manifest.halves),
            height=prepared.height,
            width=prepared.width,
        )
        loop = self._loops.pop(shape, None)
        if loop is None:
            if len(self._loops) >= MAX_LOOPS:
                self._loops.popitem(last=False)[1].close()
            loop = DenoiseLoop(self._target, self.bundle.dims, self.bundle.precision, shape)
        self._loops[shape] = loop
        return loop


def _clamp(value: int, allowed: tuple[int, int]) -> int:
    return min(max(value, allowed[0]), allowed[1])


def _shifted(progress: Progress | None, done: int, total: int) -> Progress | None:
    """Progress over all batches of a request."""
    if progress is None:
        return None
    return lambda call, _calls: progress(done + call, total)


def _keep(timings: Timings, times: list[LoopTimes]) -> None:
    timings.call_ms = tuple(ms for t in times for ms in t.call_ms)
    timings.overhead_us = tuple(us for t in times for us in t.overhead_us)


@contextmanager
def _timed(timings: Timings, stage: str) -> Iterator[None]:
    start = perf_counter()
    yield
    elapsed_ms = (perf_counter() - start) * 1e3
    timings.stages_ms[stage] = timings.stages_ms.get(stage, 0.0) + elapsed_ms
