"""From a request to what the diffusion networks start from: photos, faces, style, seed and size, all decided.

The pipeline and the benchmarks' reference start from the same :class:`Prepared`, so both see the same inputs.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from instantrt.bundle import Bundle, PictureSizes
from instantrt.conditioning.cached_faces import CachedFaceStage
from instantrt.conditioning.face import FaceStage
from instantrt.conditioning.identity import Identity, identity_from_photos
from instantrt.conditioning.photo import DecodedPhoto, decode_photo
from instantrt.conditioning.styles import apply_style
from instantrt.engine import Target, TargetOptions
from instantrt.network import Network
from instantrt.request import MAX_SEED, RANDOM_SEED, GenerateRequest
from instantrt.residency import Loading
from instantrt.samplers import SchedulerConfig, StepTable, step_table
from instantrt.targets import open_target

StageTimer = Callable[[str], AbstractContextManager[None]]


@dataclass(frozen=True)
class Prepared:
    """A request after its photos, style, seed and size are decided and before any diffusion network runs."""

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


def check_request(request: GenerateRequest, bundle: Bundle) -> None:
    """What can be wrong with a request for this bundle, as far as it shows before any network is loaded.

    Raises:
        RequestError: a size that the bundle does not have.
        BundleError: a sampler that cannot be made from its scheduler config.
    """
    picture_size(request, bundle.manifest.sizes)
    request_table(request, bundle.scheduler)


def request_table(request: GenerateRequest, scheduler: SchedulerConfig) -> StepTable:
    """The step table that a request asks for.

    Raises:
        BundleError: the sampler cannot be made from this scheduler config.
    """
    window = (request.control_guidance_start, request.control_guidance_end)
    return step_table(request.sampler, request.steps, request.guidance_scale, scheduler, window)


class Preparation:
    """Prepares requests with a bundle's two face networks, and remembers recent photos. A context manager.

    Args:
        bundle: brings the face networks and the allowed sizes.
        target: executes them; stays the caller's.
        on_demand: as in :class:`Network`.
    """

    def __init__(self, bundle: Bundle, target: Target, on_demand: Loading | None = None) -> None:
        self._sizes = bundle.manifest.sizes
        with ExitStack() as owned:
            self._networks = detector, encoder = tuple(
                owned.enter_context(closing(Network(target, bundle.contracts[name], bundle.precision, on_demand)))
                for name in ("face_detector", "face_encoder")
            )
            self.faces = CachedFaceStage(FaceStage(bundle.dims, detector, encoder))
            self._owned = owned.pop_all()

    @classmethod
    def load(cls, bundle: str | Path, *, threads: int | None = None) -> Preparation:
        """The face stage alone on ONNX Runtime, without any diffusion network in memory.

        Raises:
            BundleError: the folder is not a complete, unaltered bundle.
        """
        opened = Bundle.open(bundle)
        with ExitStack() as owned:
            target = open_target("onnxruntime", opened, TargetOptions(threads=threads))
            owned.callback(target.close)
            preparation = cls(opened, target)
            preparation._owned.push(owned.pop_all())
        return preparation

    def prepare(self, request: GenerateRequest, stage: StageTimer = lambda _name: nullcontext()) -> Prepared:
        """Decode and search the photos, apply the style, draw the seed.

        Args:
            request: photos and options.
            stage: times the named stages ``photo`` and ``face``.

        Raises:
            RequestError: a size that the bundle does not have.
            PhotoError: a photo is unreadable or shows no face.
        """
        picture_size(request, self._sizes)
        with stage("photo"):
            photo = decode_photo(request.face)
            pose = None if request.pose is None else decode_photo(request.pose)
        return self.prepare_decoded(request, photo, pose, stage)

    def prepare_decoded(
        self, request: GenerateRequest, photo: DecodedPhoto, pose: DecodedPhoto | None, stage: StageTimer
    ) -> Prepared:
        """:meth:`prepare` with the request's photos decoded elsewhere, which takes no network."""
        width, height = picture_size(request, self._sizes)
        prompt, negative_prompt = apply_style(request.style, request.prompt, request.negative_prompt)
        with stage("face"):
            identity = identity_from_photos(self.faces, photo, pose, width, height)
        seed = secrets.randbelow(MAX_SEED + 1) if request.seed == RANDOM_SEED else request.seed
        return Prepared(request, prompt, negative_prompt, seed, width, height, identity)

    def unload(self) -> None:
        """Release face networks that are loaded on demand."""
        for network in self._networks:
            network.unload()

    def close(self) -> None:
        """Release the face networks; may be called more than once."""
        self._owned.close()

    def __enter__(self) -> Preparation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def picture_size(request: GenerateRequest, sizes: PictureSizes) -> tuple[int, int]:
    """Width and height of a request's pictures.

    Raises:
        RequestError: the bundle does not have that size.
    """
    width, height = sizes.default
    if request.width is not None and request.height is not None:
        width, height = request.width, request.height
    sizes.check(width, height)
    return width, height
