"""What the nano report asks for: people, poses and styles, all drawn from fixed seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from instantrt import GenerateRequest
from instantrt_nano.training.people import PEOPLE, Recipe, portrait, synthetic
from instantrt_nano.training.pictures import Place, averaged, placed
from instantrt_nano.training.styles import STYLES

Picture = npt.NDArray[np.uint8]

STRENGTH = 0.8
GUIDANCE_SCALE = 3.0
SEED = 1000
PROMPT = "portrait of a person"
UNSEEN = "unseen"
UNSEEN_RECIPE = Recipe(
    base="hopper",
    mix=0.6,
    shape={
        "jaw_width": 0.6,
        "eye_size": 0.6,
        "eye_spacing": -0.9,
        "mouth_width": 0.9,
        "nose_length": 0.3,
        "brow_height": 0.3,
    },
    skin=(0.85, 0.72, 0.62),
)


@dataclass(frozen=True)
class Asked:
    """One picture of the report.

    Args:
        person: name in :data:`PEOPLE`.
        style: name in :data:`STYLES`.
        pose: number of the pose.
        request: for the runtime.
    """

    person: str
    style: str
    pose: int
    request: GenerateRequest


@cache
def face_photo(person: str) -> bytes:
    """The photo of a person, as a PNG file."""
    return _png((synthetic(UNSEEN_RECIPE) if person == UNSEEN else portrait(person)).pixels)


@cache
def pose_photo(pose: int, person: str) -> bytes:
    """Somebody else than ``person`` in pose ``pose``, as a PNG file: the shape of the face is not the person's own."""
    others = [name for name in PEOPLE if name != person]
    fine, _ = placed(portrait(others[pose % len(others)]), place(pose))
    return _png(fine)


def place(pose: int) -> Place:
    """Where the face of pose ``pose`` lies: sizes, turns and shifts as training has them, but for very small faces."""
    rng = np.random.default_rng(SEED + pose)
    return Place(rng.uniform(24, 36), rng.uniform(-14, 14), 64 + rng.uniform(-13, 13), 61 + rng.uniform(-13, 9))


def asked(poses: int, steps: int) -> Iterator[Asked]:
    """Everybody in every style and pose. Every other pose asks in words of its own, the rest by the style's preset."""
    for person in PEOPLE:
        for style, trained in STYLES.items():
            for pose in range(poses):
                by_preset = pose % 2 == 0
                request = GenerateRequest(
                    face=face_photo(person),
                    pose=pose_photo(pose, person),
                    prompt=PROMPT if by_preset else trained.prompts[0],
                    style=trained.preset if by_preset else None,
                    steps=steps,
                    guidance_scale=GUIDANCE_SCALE,
                    seed=SEED + pose,
                    identity_strength=STRENGTH,
                    adapter_strength=STRENGTH,
                )
                yield Asked(person, style, pose, request)


def unseen(poses: int, steps: int) -> Iterator[Asked]:
    """A person that training has not seen, in the photo style; ``Asked.person`` is :data:`UNSEEN`."""
    for case in asked(poses, steps):
        if case.person == "astronaut" and case.style == "photo":
            yield replace(case, person=UNSEEN, request=replace(case.request, face=face_photo(UNSEEN)))


def with_options(cases: Iterable[Asked], **options: Any) -> Iterator[Asked]:
    """The same cases with other values of request options."""
    return (replace(case, request=replace(case.request, **options)) for case in cases)


def filtered_photos(count: int, seed: int) -> Mapping[str, list[Picture]]:
    """By style, ``count`` filtered photos of each person in random poses, as training has them."""
    rng = np.random.default_rng(seed)
    by_style: dict[str, list[Picture]] = {}
    for style, trained in STYLES.items():
        for person in PEOPLE:
            for _ in range(count):
                fine, _ = placed(portrait(person), place(int(rng.integers(10_000))))
                by_style.setdefault(style, []).append(averaged(trained.filter(fine)))
    return by_style


def _png(pixels: Picture) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()
