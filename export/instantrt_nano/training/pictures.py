"""The training pictures: everybody in every style, placed at random, and embeddings as users' photos give them."""

from __future__ import annotations

from dataclasses import dataclass
from math import atan2, cos, radians, sin
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from instantrt_nano.networks import PICTURE_PX
from instantrt_nano.training.faces import Faces
from instantrt_nano.training.people import EYE_DISTANCE_PX, PEOPLE, Portrait, portrait
from instantrt_nano.training.styles import STYLES

PER_PERSON_AND_STYLE = 600
EMBEDDINGS_PER_PERSON = 150
FINE = 2  # pictures are filtered at so many times their size, then averaged down


@dataclass(frozen=True)
class Place:
    """Where a face lies in a picture.

    Args:
        eye_distance: pixels.
        roll: degrees, clockwise.
        x: of the middle of the five keypoints, pixels.
        y: likewise.
    """

    eye_distance: float
    roll: float
    x: float
    y: float


def random_place(rng: np.random.Generator) -> Place:
    """Most faces fill the picture as a portrait does, some are small."""
    eye_distance = rng.uniform(22, 36) if rng.random() < 0.85 else rng.uniform(14, 22)
    return Place(eye_distance, rng.uniform(-15, 15), 64 + rng.uniform(-14, 14), 60 + rng.uniform(-16, 10))


def placed(person: Portrait, place: Place) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float64]]:
    """The person at ``place``: u8 RGB [FINE * PICTURE_PX] squared, and keypoints [5, 2] in pixels of the picture."""
    scale, angle = place.eye_distance / EYE_DISTANCE_PX, radians(place.roll)
    eyes = person.keypoints[1] - person.keypoints[0]
    angle -= atan2(eyes[1], eyes[0])
    turn = scale * np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    shift = np.array([place.x, place.y]) - turn @ person.keypoints.mean(0)
    # Pixel centres lie at whole numbers for warpAffine and at halves for keypoints.
    fine = FINE * np.column_stack([turn, shift])
    fine[:, 2] += fine[:, :2] @ (0.5, 0.5) - 0.5
    pixels = cv2.warpAffine(
        person.pixels,
        fine,
        (FINE * PICTURE_PX,) * 2,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(pixels, np.uint8), person.keypoints @ turn.T + shift


def make_pictures(
    faces: Faces,
    out: Path,
    per_person_and_style: int = PER_PERSON_AND_STYLE,
    embeddings_per_person: int = EMBEDDINGS_PER_PERSON,
    seed: int = 0,
) -> None:
    """Writes ``pictures.npz`` and ``embeddings.npz`` into ``out``.

    pictures.npz: pictures u8 [N, PICTURE_PX, PICTURE_PX, 3], keypoints f32 [N, 5, 2], person and style i64 [N] as
    places in :data:`PEOPLE` and :data:`STYLES`. embeddings.npz: one f32 [n, 128] per person.
    """
    rng = np.random.default_rng(seed)
    people, filters = [portrait(name) for name in PEOPLE], [style.filter for style in STYLES.values()]
    count = per_person_and_style * len(people) * len(filters)
    pictures = np.zeros((count, PICTURE_PX, PICTURE_PX, 3), np.uint8)
    keypoints = np.zeros((count, 5, 2), np.float32)
    person, style = np.arange(count) % len(people), np.arange(count) // len(people) % len(filters)
    for i in range(count):
        fine, keypoints[i] = placed(people[person[i]], random_place(rng))
        pictures[i] = averaged(filters[style[i]](fine))
    np.savez(out / "pictures.npz", pictures=pictures, keypoints=keypoints, person=person, style=style)
    embeddings: Any = {
        name: _embeddings(faces, one, embeddings_per_person, rng) for name, one in zip(PEOPLE, people, strict=True)
    }
    np.savez(out / "embeddings.npz", **embeddings)


def _embeddings(faces: Faces, person: Portrait, count: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Of the photo and of small pictures of it, with keypoints and brightness as they vary: f32 [count, 128]."""
    embeddings = []
    for i in range(count):
        if i % 2:
            fine, keypoints = placed(person, random_place(rng))
            pixels = averaged(fine)
        else:
            pixels, keypoints = person.pixels, person.keypoints
        eye_distance = np.linalg.norm(keypoints[1] - keypoints[0])
        bright = pixels * rng.uniform(0.85, 1.15) + rng.uniform(-10, 10)
        embeddings.append(
            faces.embed(
                np.clip(np.round(bright), 0, 255).astype(np.uint8),
                keypoints + rng.normal(0, 0.02, (5, 2)) * eye_distance,
            )
        )
    return np.array(embeddings)


def averaged(fine: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A picture made at FINE times its size, at its size."""
    return np.asarray(cv2.resize(fine, (PICTURE_PX, PICTURE_PX), interpolation=cv2.INTER_AREA), np.uint8)
