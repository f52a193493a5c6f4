"""The face stage alone, for systems that bring none: the two face networks and nothing else in memory."""

from __future__ import annotations

from contextlib import ExitStack, closing
from types import TracebackType

from instantrt import GenerateRequest, Prepared
from instantrt.bundle import Bundle
from instantrt.conditioning.cache import CachedFaceStage
from instantrt.conditioning.face import FaceStage
from instantrt.conditioning.identity import identity_from_photos
from instantrt.conditioning.photo import decode_photo
from instantrt.conditioning.styles import apply_style
from instantrt.engine import TargetOptions
from instantrt.network import Network
from instantrt.targets import open_target


class FaceFront:
    """Settles photos, style and size as :class:`instantrt.InstantID` does, on ONNX Runtime. A context manager.

    Args:
        bundle: brings the face networks.
        threads: CPU threads that one network may use.
    """

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self._sizes = bundle.manifest.sizes
        with ExitStack() as owned:
            target = open_target("onnxruntime", bundle, TargetOptions(threads=threads))
            owned.callback(target.close)
            detector, encoder = (
                owned.enter_context(closing(Network(target, bundle.contracts[name], bundle.precision)))
                for name in ("face_detector", "face_encoder")
            )
            self._faces = CachedFaceStage(FaceStage(bundle.dims, detector, encoder))
            self._owned = owned.pop_all()

    def prepare(self, request: GenerateRequest) -> Prepared:
        """The photo and face stages of a request that names its seed."""
        width, height = request.width, request.height
        if width is None or height is None:
            width, height = self._sizes.default
        prompt, negative_prompt = apply_style(request.style, request.prompt, request.negative_prompt)
        photo = decode_photo(request.face)
        pose = None if request.pose is None else decode_photo(request.pose)
        identity = identity_from_photos(self._faces, photo, pose, width, height)
        return Prepared(request, prompt, negative_prompt, request.seed, width, height, identity)

    def close(self) -> None:
        """Release the networks; may be called more than once."""
        self._owned.close()

    def __enter__(self) -> FaceFront:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
