"""From photos to what the diffusion networks are given of the person: embedding, keypoint picture, face box."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from instantrt.conditioning.cached_faces import CachedFaceStage
from instantrt.conditioning.face import Face
from instantrt.conditioning.framing import frame_photo
from instantrt.conditioning.keypoints import draw_keypoints
from instantrt.conditioning.masks import region_mask
from instantrt.conditioning.photo import DecodedPhoto


@dataclass(frozen=True)
class Identity:
    """The face conditions of one request.

    Args:
        embedding: f32 [face embedding width], not normalised, from the face photo.
        control_image: u8 [H, W, 3], the keypoint picture.
        region: f32 [H, W], 1 inside the face box.
        keypoints: f32 [5, 2] in picture pixels.
        warnings: what the caller should know, e.g. that several faces were found, or that a photo lacks its end.
    """

    embedding: npt.NDArray[np.float32]
    control_image: npt.NDArray[np.uint8]
    region: npt.NDArray[np.float32]
    keypoints: npt.NDArray[np.float32]
    warnings: tuple[str, ...]


def identity_from_photos(
    faces: CachedFaceStage,
    photo: DecodedPhoto,
    pose: DecodedPhoto | None,
    width: int,
    height: int,
) -> Identity:
    """The person of ``photo``, placed as in ``pose`` (or as in ``photo``) on a ``width`` x ``height`` picture.

    Raises:
        NoFaceError: no face in one of the photos.
    """
    largest, embedding = faces.read(photo.pixels, "face photo")
    warnings, placed_as = _warnings("face photo", photo, largest.count), photo
    if pose is not None:
        largest, placed_as = faces.find(pose.pixels, "pose photo"), pose
        warnings += _warnings("pose photo", pose, largest.count)
    keypoints, box = _place(largest.face, placed_as.pixels, width, height)
    return Identity(
        embedding,
        draw_keypoints(keypoints, width, height),
        region_mask(box, width, height),
        keypoints,
        warnings,
    )


def _place(
    face: Face, photo: npt.NDArray[np.uint8], width: int, height: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    framing = frame_photo(photo.shape[1], photo.shape[0], face.box, width, height)
    return framing.points(face.keypoints), framing.box(face.box)


def _warnings(role: str, photo: DecodedPhoto, faces: int) -> tuple[str, ...]:
    several = f"{faces} faces in the {role}, as a rule the largest is used: crop the photo if another one is meant"
    return (*(f"{role}: {warning}" for warning in photo.warnings), *([several] if faces > 1 else []))
