"""The styles nano can paint in: a mild picture filter for each, and the words that ask for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from instantrt.conditioning.styles import STYLES as PRESETS

Picture = npt.NDArray[np.uint8]
NEGATIVE = "blurry, low quality, deformed"


@dataclass(frozen=True)
class TrainedStyle:
    """One style.

    Args:
        filter: a photo, u8 RGB [H, W, 3], to the same in this style. Mild, so that the person stays the same.
        preset: the name of the runtime's style, if there is one.
        prompts: short texts that ask for it.
    """

    filter: Callable[[Picture], Picture]
    preset: str | None
    prompts: tuple[str, ...]

    @property
    def template(self) -> str | None:
        """The preset's, with a place for the prompt."""
        return None if self.preset is None else PRESETS[self.preset].template

    def negatives(self) -> list[str]:
        """Negative prompts that go with it."""
        own = "" if self.preset is None else PRESETS[self.preset].negative
        return [text for text in (NEGATIVE, own, f"{own}, {NEGATIVE}" if own else "") if text]


def photo(picture: Picture) -> Picture:
    """As it is."""
    return picture


def film_noir(picture: Picture) -> Picture:
    """Grey with a steeper tone curve."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) / 255.0
    low, high = (1 / (1 + np.exp(6 * x)) for x in (0.45, -0.55))
    curve = (1 / (1 + np.exp(-6 * (grey - 0.45))) - low) / (high - low)
    return _u8(np.repeat(curve[..., None] * 255, 3, axis=2))


def vibrant(picture: Picture) -> Picture:
    """Smooth areas of bright, saturated colour."""
    smooth = cv2.bilateralFilter(picture, 5, 20, 4)
    hsv = cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV).astype(np.float64)
    hsv[..., 1] = np.minimum(hsv[..., 1] * 1.7 + 20, 255)
    hsv[..., 2] = np.minimum(hsv[..., 2] * 1.1 + 12, 255)
    return np.asarray(cv2.cvtColor(_u8(hsv), cv2.COLOR_HSV2RGB), np.uint8)


def watercolor(picture: Picture) -> Picture:
    """Flowing areas of pale, thin colour on yellowish paper."""
    flowing = cv2.bilateralFilter(cv2.bilateralFilter(picture, 7, 30, 5), 7, 30, 5)
    edges = cv2.GaussianBlur(picture, (0, 0), 1.0).astype(np.float64) - cv2.GaussianBlur(picture, (0, 0), 4.0)
    thinned = 255 - (255 - flowing.astype(np.float64)) * 0.72 + 0.25 * edges
    return _u8(thinned * (1.0, 0.985, 0.93))


def _u8(values: npt.NDArray[np.float64]) -> Picture:
    return np.asarray(np.clip(np.round(values), 0, 255), np.uint8)


STYLES: Mapping[str, TrainedStyle] = {
    "photo": TrainedStyle(
        photo,
        None,
        (
            "photo of a person",
            "a photo",
            "portrait photo, natural light",
            "studio portrait photo of a person",
            "a person",
            "portrait of a person",
            "a portrait",
            "a person, soft light, detailed face",
            "photo of a person, sharp focus",
        ),
    ),
    "noir": TrainedStyle(
        film_noir,
        "Film Noir",
        (
            "film noir portrait",
            "film noir style, a person",
            "black and white film noir photo, high contrast",
            "film noir",
        ),
    ),
    "vibrant": TrainedStyle(
        vibrant,
        "Vibrant Color",
        (
            "vibrant color portrait",
            "vibrant color, a person",
            "vibrant color poster of a person",
            "vibrant color style, bold and bright",
        ),
    ),
    "watercolor": TrainedStyle(
        watercolor,
        "Watercolor",
        ("watercolor painting of a person", "watercolor", "watercolor portrait, soft", "watercolor style, a person"),
    ),
}
"""In this order the data numbers them."""
