"""The face stage: who is in a photo and where, with whichever detector and encoder the bundle has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from instantrt.conditioning.alignment import TEMPLATES, aligned_crop
from instantrt.conditioning.detectors import DETECTORS, Run
from instantrt.contracts import ModelDims
from instantrt.errors import NoFaceError
from instantrt.finite import require_finite

Photo = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Face:
    """One face of a photo, in photo pixels.

    Args:
        box: f32 [4], x1, y1, x2, y2; may reach beyond the photo.
        keypoints: f32 [5, 2]: left eye, right eye, nose, left and right mouth corner (image-left first).
        score: the detector's confidence, 0-1.
    """

    box: npt.NDArray[np.float32]
    keypoints: npt.NDArray[np.float32]
    score: float

    @property
    def area_px(self) -> float:
        """Of the box."""
        return float((self.box[2] - self.box[0]) * (self.box[3] - self.box[1]))


class FaceStage:
    """Finds faces and embeds them.

    Args:
        dims: names the kinds of the two networks and their input sizes.
        detector: the ``face_detector`` network.
        encoder: the ``face_encoder`` network.
    """

    def __init__(self, dims: ModelDims, detector: Run, encoder: Run) -> None:
        self._kind, self._px = DETECTORS[dims.detector], dims.detector_px
        self._template = TEMPLATES[dims.encoder]
        self._detector, self._encoder = detector, encoder
        if self._template.px != dims.face_px:
            raise ValueError(f"{dims.encoder} takes crops of {self._template.px} px, not {dims.face_px}")

    def detect(self, photo: Photo) -> list[Face]:
        """All faces found in u8 RGB ``photo`` [H, W, 3], the largest box first; may be empty."""
        candidates = self._kind.detect(self._detector, photo, self._px)
        faces = [
            Face(b, k, float(s))
            for b, k, s in zip(candidates.boxes, candidates.keypoints, candidates.scores, strict=True)
        ]
        return sorted(faces, key=lambda face: face.area_px, reverse=True)

    def largest(self, photo: Photo, role: str) -> tuple[Face, int]:
        """The largest face of ``photo``, and how many there are.

        A face that shows only when another one is covered is counted, and never the one that is given.

        Args:
            photo: u8 RGB [H, W, 3].
            role: what the user calls this photo, for the message: "face photo" or "pose photo".

        Raises:
            NoFaceError: no face was found.
        """
        faces = self.detect(photo)
        if not faces:
            raise NoFaceError(
                f"no face was found in the {role}",
                found=f"{photo.shape[1]} x {photo.shape[0]} pixels without a face",
                hint="use a photo in which the face is upright, in the open and at least a tenth as tall as the photo",
            )
        if len(faces) > 1:
            return faces[0], len(faces)
        return faces[0], 1 + len(self._kind.neighbours(self._detector, photo, self._px, faces[0].box))

    def embed(self, photo: Photo, face: Face) -> npt.NDArray[np.float32]:
        """The embedding of one face of ``photo``, f32 [face_embedding_width], not normalised.

        Raises:
            NotFiniteError: the encoder gave values that are no finite numbers.
        """
        crop = aligned_crop(photo, face.keypoints, self._template)
        embedding = np.asarray(self._encoder({"faces": crop[None]})["embedding"][0], np.float32)
        return require_finite("face_encoder", "embedding", embedding)
