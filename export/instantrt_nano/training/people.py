"""The people nano knows: two portraits in the public domain, and synthetic people made of the two.

Every portrait is first turned, scaled and moved into one frame, in which all eyes lie at the same two places. A
synthetic person is one of the portraits whose face is mixed with the other's, bent into another shape and coloured
anew. The shapes were found by drawing a few hundred at random and keeping what looked like a portrait and lay far from
everybody else by the face encoder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image
from skimage.data import astronaut

from instantrt.conditioning.alignment import similarity

Picture = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Bend = Callable[[Floats], Floats]
"""68 landmarks [68, 2] to their shifts, in eye distances."""

FRAME_PX = 576
EYE_DISTANCE_PX = 72.0
EYES_MIDDLE = (288.0, 244.0)  # in the frame
BEND_WIDTH = 0.42  # of the smooth bump around each bent landmark, in eye distances

# Of the 68 landmarks.
JAW, BROWS, NOSE_TIP, MOUTH = range(17), range(17, 27), range(31, 36), range(48, 68)
LEFT_EYE, RIGHT_EYE = range(36, 42), range(42, 48)


@dataclass(frozen=True)
class Recipe:
    """How a synthetic person is made. All shape numbers are 0 for no change.

    Args:
        base: name of the portrait that gives hair, clothes and background.
        mix: share of the other portrait's face, its shape and its skin, 0-1.
        shape: of the features in :data:`BENDS`, by how much of its full strength each is bent, about -1 to 1.
        skin: factors on the skin's red, green and blue.
        hair: likewise, on what surrounds the face within the head: hair or hat.
        hue: turn of the colours of clothes and background, in degrees.
        brows: 0-1, how much darker the eyebrows are.
    """

    base: str
    mix: float
    shape: Mapping[str, float] = field(default_factory=dict)
    skin: tuple[float, float, float] = (1, 1, 1)
    hair: tuple[float, float, float] = (1, 1, 1)
    hue: float = 0
    brows: float = 0


@dataclass(frozen=True)
class Portrait:
    """A person in the common frame.

    Args:
        pixels: u8 RGB [FRAME_PX, FRAME_PX, 3].
        landmarks: f64 [68, 2], in frame pixels.
    """

    pixels: Picture
    landmarks: Floats

    @property
    def keypoints(self) -> Floats:
        """f64 [5, 2]: eyes, nose tip, mouth corners, image-left first."""
        return five_of_68(self.landmarks)


def five_of_68(landmarks: Floats) -> Floats:
    """Five keypoints [5, 2] of 68 landmarks [68, 2]."""
    eyes = [landmarks[list(eye)].mean(0) for eye in (LEFT_EYE, RIGHT_EYE)]
    return np.stack([*eyes, landmarks[30], landmarks[48], landmarks[54]])


@cache
def photographed(name: str) -> Portrait:
    """One of the two real people, "astronaut" or "hopper", in the frame."""
    photo = astronaut() if name == "astronaut" else _hopper()
    text = resources.files(__package__).joinpath("landmarks.json").read_text(encoding="utf-8")
    landmarks = np.array(json.loads(text)[name])
    half = np.array([EYE_DISTANCE_PX / 2, 0])
    eyes = np.array([np.array(EYES_MIDDLE) - half, np.array(EYES_MIDDLE) + half])
    matrix = similarity(five_of_68(landmarks)[:2], eyes)
    pixels = cv2.warpAffine(photo, matrix, (FRAME_PX, FRAME_PX), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return Portrait(np.asarray(pixels, np.uint8), landmarks @ matrix[:, :2].T + matrix[:, 2])


def synthetic(recipe: Recipe) -> Portrait:
    """The person that ``recipe`` describes."""
    base, other = (photographed(n) for n in _base_first(recipe.base))
    wanted = base.landmarks + recipe.mix * (_fitted(other.landmarks, base.landmarks) - base.landmarks)
    bent = wanted + EYE_DISTANCE_PX * sum(
        (strength * BENDS[name](wanted) for name, strength in recipe.shape.items()), np.zeros_like(wanted)
    )
    pixels = _bend(base.pixels, base.landmarks, bent).astype(np.float64)
    face = _feathered(bent)[..., None]
    pixels += recipe.mix * face * (_bend(other.pixels, other.landmarks, bent) - pixels)
    pixels = _coloured(pixels, bent, recipe)
    pixels *= 1 - recipe.brows * _brows(bent)[..., None]
    return _at_eyes(Portrait(_u8(pixels), bent))


def _coloured(pixels: Floats, landmarks: Floats, recipe: Recipe) -> Floats:
    """Skin, hair and the rest, each in its new colour, f64 [FRAME_PX, FRAME_PX, 3]."""
    skin, head = _skin(pixels, landmarks)[..., None], _head(landmarks)[..., None]
    rest = cv2.cvtColor(_u8(pixels), cv2.COLOR_RGB2HSV)
    hair = head * (1 - skin) * _soft((rest[..., 1] > 45) | (rest[..., 2] < 110), 0.03)[..., None]
    rest[..., 0] = (rest[..., 0].astype(int) + round(recipe.hue / 2)) % 180
    turned = cv2.cvtColor(rest, cv2.COLOR_HSV2RGB)
    pixels = pixels + (1 - skin) * (1 - head) * (turned - pixels)
    return np.asarray(pixels * (1 + skin * (np.array(recipe.skin) - 1)) * (1 + hair * (np.array(recipe.hair) - 1)))


def _skin(pixels: Floats, landmarks: Floats) -> Floats:
    """How much each pixel is skin, 0-1: the face, and what has the colour of skin around and below it."""
    _, red, blue = np.moveaxis(cv2.cvtColor(_u8(pixels), cv2.COLOR_RGB2YCrCb).astype(int), 2, 0)
    coloured = (red > 138) & (red < 178) & (blue > 80) & (blue < 128)
    chin, width = landmarks[8], np.ptp(landmarks[list(JAW), 0])
    near = np.zeros((FRAME_PX, FRAME_PX), np.uint8)
    cv2.ellipse(
        near, _rounded(chin - (0, 0.3 * width)), _rounded((0.62 * width, 0.75 * width)), 0, 0, 360, 1, cv2.FILLED
    )
    return np.maximum(_feathered(landmarks), _soft(coloured & (near > 0), 0.05))


def _head(landmarks: Floats) -> Floats:
    """The head with hair or hat, soft, 0-1."""
    canvas, width = np.zeros((FRAME_PX, FRAME_PX), np.uint8), np.ptp(landmarks[list(JAW), 0])
    middle = landmarks[list(BROWS)].mean(0) - (0, 0.1 * width)
    cv2.ellipse(canvas, _rounded(middle), _rounded((0.95 * width, 0.9 * width)), 0, 0, 360, 1, cv2.FILLED)
    return _soft(canvas, 0.1)


def _rounded(point: npt.ArrayLike) -> tuple[int, int]:
    x, y = np.round(np.asarray(point)).astype(int)
    return int(x), int(y)


def _u8(pixels: Floats) -> Picture:
    return np.asarray(np.clip(np.round(pixels), 0, 255), np.uint8)


def _hopper() -> Picture:
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    return np.asarray(Image.open(path).convert("RGB"), np.uint8)


def _base_first(base: str) -> tuple[str, str]:
    return (base, "hopper" if base == "astronaut" else "astronaut")


def _fitted(landmarks: Floats, target: Floats) -> Floats:
    """``landmarks`` brought onto ``target`` by the similarity that fits all of them best."""
    matrix = similarity(landmarks, target)
    return landmarks @ matrix[:, :2].T + matrix[:, 2]


def _bend(pixels: Picture, source: Floats, target: Floats) -> Picture:
    """``pixels`` with every landmark moved from ``source`` to ``target``, smoothly, and the frame's edge at rest.

    Radial basis functions (Gaussians), solved so that the landmarks land exactly; a little smoothing keeps
    neighbouring landmarks from folding the picture.
    """
    edge = np.linspace(0, FRAME_PX - 1, 6)
    rest = np.array([(x, y) for x in edge for y in edge if {x, y} & {edge[0], edge[-1]}])
    centres = np.concatenate([target, rest])
    shift = np.concatenate([source - target, np.zeros_like(rest)])
    width = BEND_WIDTH * EYE_DISTANCE_PX
    gram = np.exp(-np.square(centres[:, None] - centres).sum(-1) / (2 * width**2))
    weights = np.linalg.solve(gram + 0.05 * np.eye(len(centres)), shift)
    axis = np.arange(FRAME_PX)
    map_x, map_y = (
        np.einsum("ni,nj,n->ij", *(_bumps(axis, centres[:, k], width) for k in (1, 0)), weights[:, c]) for c in (0, 1)
    )
    return np.asarray(
        cv2.remap(
            pixels,
            (map_x + axis).astype(np.float32),
            (map_y + axis[:, None]).astype(np.float32),
            cv2.INTER_CUBIC,
            borderMode=cv2.BORDER_REPLICATE,
        ),
        np.uint8,
    )


def _bumps(axis: npt.NDArray[np.int64], centres: Floats, width: float) -> Floats:
    return np.asarray(np.exp(-np.square(axis - centres[:, None]) / (2 * width**2)))


def _feathered(landmarks: Floats) -> Floats:
    """1 on the face, 0 elsewhere, soft in between, [FRAME_PX, FRAME_PX]: from the brows to the jaw and a bit up."""
    brows = landmarks[list(BROWS)]
    forehead = brows - (0, 0.25 * EYE_DISTANCE_PX)
    return _soft(_filled(np.concatenate([landmarks[list(JAW)], forehead])), 0.1)


def _brows(landmarks: Floats) -> Floats:
    canvas = np.zeros((FRAME_PX, FRAME_PX), np.uint8)
    for brow in (landmarks[17:22], landmarks[22:27]):
        cv2.polylines(canvas, [np.round(brow + np.array([0, 2])).astype(np.int32)], False, 1, thickness=9)
    return _soft(canvas.astype(np.float64), 0.04)


def _filled(points: Floats) -> Floats:
    canvas = np.zeros((FRAME_PX, FRAME_PX), np.uint8)
    cv2.fillConvexPoly(canvas, cv2.convexHull(np.round(points).astype(np.int32)), 1)
    return canvas.astype(np.float64)


def _soft(mask: npt.NDArray[Any], eye_distances: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(mask.astype(np.float64), (0, 0), eye_distances * EYE_DISTANCE_PX))


def _at_eyes(portrait: Portrait) -> Portrait:
    """The portrait moved so that its eyes lie at the frame's places again."""
    half = np.array([EYE_DISTANCE_PX / 2, 0])
    eyes = np.array([np.array(EYES_MIDDLE) - half, np.array(EYES_MIDDLE) + half])
    matrix = similarity(portrait.keypoints[:2], eyes)
    pixels = cv2.warpAffine(
        portrait.pixels, matrix, (FRAME_PX, FRAME_PX), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    return Portrait(np.asarray(pixels, np.uint8), portrait.landmarks @ matrix[:, :2].T + matrix[:, 2])


def _moved(indices: range, x: float = 0, y: float = 0) -> Bend:
    def bend(landmarks: Floats) -> Floats:
        shift = np.zeros_like(landmarks)
        shift[list(indices)] = (x, y)
        return shift

    return bend


def _scaled(indices: range, x: float = 0, y: float = 0) -> Bend:
    """Landmarks away from their middle, by a share of their distance to it (in eye distances)."""

    def bend(landmarks: Floats) -> Floats:
        shift = np.zeros_like(landmarks)
        points = landmarks[list(indices)]
        shift[list(indices)] = (points - points.mean(0)) * (x, y) / EYE_DISTANCE_PX
        return shift

    return bend


def _all_of(*bends: Bend) -> Bend:
    return lambda landmarks: sum((bend(landmarks) for bend in bends), np.zeros_like(landmarks))


BENDS: Mapping[str, Bend] = {
    "jaw_width": _scaled(JAW, x=0.16),
    "chin": _moved(range(5, 12), y=0.2),
    "low_face": _all_of(_moved(MOUTH, y=0.14), _moved(range(4, 13), y=0.14)),
    "eye_size": _all_of(_scaled(LEFT_EYE, 0.25, 0.4), _scaled(RIGHT_EYE, 0.25, 0.4)),
    "eye_spacing": _all_of(_moved(LEFT_EYE, x=-0.07), _moved(RIGHT_EYE, x=0.07)),
    "eye_tilt": _all_of(
        _moved(range(36, 37), y=-0.05),
        _moved(range(39, 40), y=0.05),
        _moved(range(45, 46), y=-0.05),
        _moved(range(42, 43), y=0.05),
    ),
    "brow_height": _moved(BROWS, y=-0.1),
    "nose_width": _scaled(NOSE_TIP, x=0.35),
    "nose_length": _all_of(_moved(NOSE_TIP, y=0.12), _moved(range(29, 31), y=0.1)),
    "mouth_width": _scaled(MOUTH, x=0.22),
    "lips": _scaled(MOUTH, y=0.45),
}
"""What can be bent, at full strength."""


PEOPLE: Mapping[str, Recipe | None] = {
    "astronaut": None,
    "hopper": None,
    "synthetic-1": Recipe(
        base="astronaut",
        mix=0.24,
        shape={
            "jaw_width": 0.9,
            "chin": 0.28,
            "low_face": -0.16,
            "eye_size": 0.22,
            "eye_spacing": -0.82,
            "eye_tilt": -0.02,
            "brow_height": -0.3,
            "nose_width": -0.78,
            "nose_length": -0.3,
            "mouth_width": 0.19,
            "lips": -0.7,
        },
        skin=(0.88, 0.7, 0.57),
        hair=(0.35, 0.3, 0.3),
        hue=110,
        brows=0.23,
    ),
    "synthetic-2": Recipe(
        base="astronaut",
        mix=0.31,
        shape={
            "jaw_width": 0.48,
            "chin": -0.14,
            "low_face": -0.95,
            "eye_size": -0.2,
            "eye_spacing": 0.95,
            "eye_tilt": -0.93,
            "brow_height": 0.18,
            "nose_width": -0.07,
            "nose_length": 0.33,
            "mouth_width": 0.45,
            "lips": -0.28,
        },
        skin=(1.06, 1.01, 0.92),
        hair=(1.15, 0.75, 0.55),
        hue=20,
        brows=0.33,
    ),
}
"""Everybody nano knows, in the order of the data's numbers; None for a photographed person."""


@cache
def portrait(name: str) -> Portrait:
    """One of :data:`PEOPLE`."""
    recipe = PEOPLE[name]
    return photographed(name) if recipe is None else synthetic(recipe)
