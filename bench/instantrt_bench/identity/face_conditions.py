"""What the networks are given about a person, computed twice: by the runtime, and by the reference on its own.

Pictures show an error in these only if they show faces. The reference's embedding comes from the checkpoint's own
encoder file, not from the bundle, and its face tokens from diffusers' resampler.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from instantrt import InstantID, Prepared
from instantrt.conditioning.alignment import TEMPLATES, aligned_crop
from instantrt.conditioning.face import Face
from instantrt_bench.reference.pipeline import Reference
from instantrt_bench.results.metrics import relative_error
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.faces.graphs import encoder_graph
from instantrt_export.parity import ComputedIn

Embedding = npt.NDArray[np.float32]
Photo = npt.NDArray[np.uint8]

LIMITS: dict[ComputedIn, float] = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 5e-2}
"""Largest relative error of embedding and face tokens. Normalising is 0.3 off with dlib's encoder, more with others."""


class CheckpointEncoder:
    """The checkpoint's face encoder on ONNX Runtime, beside the bundle and the runtime's target."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        dims = checkpoint.dims
        graph = encoder_graph(checkpoint.face_models.encoder, dims.encoder, dims.face_px, dims.face_embedding_width)
        self._session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        self._template = TEMPLATES[dims.encoder]

    def embed(self, photo: Photo, face: Face) -> Embedding:
        """The embedding of one face of u8 RGB ``photo`` [H, W, 3], f32 [width], as the encoder gives it."""
        crop = aligned_crop(photo, face.keypoints, self._template)
        return np.asarray(self._session.run(["embedding"], {"faces": crop[None]})[0][0], np.float32)


@dataclass(frozen=True)
class FaceConditions:
    """Both sides' conditions of one request, compared.

    Args:
        embedding_norm: of the runtime's embedding.
        reference_norm: of the reference's.
        embedding_error: relative error of the runtime's.
        tokens_error: relative error of the runtime's face tokens, the whole guidance batch together.
        limit: of both errors.
    """

    embedding_norm: float
    reference_norm: float
    embedding_error: float
    tokens_error: float
    limit: float

    @property
    def failures(self) -> list[str]:
        """What is beyond the limit, as texts."""
        failures = []
        if not self.embedding_error <= self.limit:
            failures.append(
                f"the face embedding is {self.embedding_error:.2g} off (length {self.embedding_norm:.4g}, "
                f"the reference's {self.reference_norm:.4g}){self._normalised()}"
            )
        if not self.tokens_error <= self.limit:
            failures.append(f"the face tokens are {self.tokens_error:.2g} off")
        return failures

    def to_json(self) -> dict[str, Any]:
        """Plain data; null for what is not finite."""
        figures = {name: value if np.isfinite(value) else None for name, value in vars(self).items()}
        return {**figures, "failures": self.failures, "within_limits": not self.failures}

    def _normalised(self) -> str:
        if abs(self.embedding_norm - 1) < 1e-3 < abs(self.reference_norm - 1):
            return ": it was normalised, which it must not be"
        return ""


def compare_conditions(
    runtime: InstantID, reference: Reference, prepared: Prepared, embedding: Embedding, computed_in: ComputedIn
) -> FaceConditions:
    """What the runtime tells its networks against what the reference tells its own.

    Args:
        runtime: made ``prepared``.
        reference: computes the face tokens anew.
        prepared: the request.
        embedding: the reference's, see :class:`CheckpointEncoder`.
        computed_in: by the runtime, which sets the limit.
    """
    ours = prepared.identity.embedding
    guidance_batch = prepared.request.guidance_batch
    tokens = runtime.conditions.face_tokens(ours, guidance_batch)  # [G, 16, width]
    rows = np.stack([np.zeros_like(embedding), embedding])[2 - guidance_batch :]  # the negative row shows nobody
    with torch.inference_mode():
        expected = reference.image_projection(torch.from_numpy(rows)[:, None]).numpy()
    return FaceConditions(
        float(np.linalg.norm(ours)),
        float(np.linalg.norm(embedding)),
        relative_error(ours, embedding),
        relative_error(tokens, expected),
        LIMITS[computed_in],
    )
