"""Which style a picture is in, told by statistics of its colours: trained on filtered photos, tested on others."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]


def colour_statistics(picture: Picture) -> Floats:
    """Of u8 RGB [H, W, 3]: levels and contrast of lightness, saturation, and the tints red-blue and green-magenta."""
    lightness, a, b = np.moveaxis(cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float64), 2, 0)
    chroma = np.hypot(a - 128, b - 128)
    levels = [np.percentile(x, (5, 25, 50, 75, 95)) for x in (lightness, chroma)]
    detail = np.abs(np.diff(lightness, axis=0)).mean() + np.abs(np.diff(lightness, axis=1)).mean()
    return np.concatenate([*levels, [a.mean(), a.std(), b.mean(), b.std(), lightness.std(), detail]])


class StyleCheck:
    """Linear discriminant analysis (Fisher): the style whose mean is nearest once the spread within styles is 1.

    Args:
        pictures: examples.
        styles: the style of each.
    """

    def __init__(self, pictures: Sequence[Picture], styles: Sequence[str]) -> None:
        self.names = tuple(dict.fromkeys(styles))
        seen = np.array([colour_statistics(picture) for picture in pictures])
        self._mean, self._scale = seen.mean(0), seen.std(0)
        seen = (seen - self._mean) / self._scale
        member = np.array([self.names.index(style) for style in styles])
        self._centres = np.array([seen[member == i].mean(0) for i in range(len(self.names))])
        within = np.cov((seen - self._centres[member]).T)
        self._precision = np.linalg.inv(within + 0.01 * np.eye(len(within)))

    def __call__(self, picture: Picture) -> str:
        """The style of a picture."""
        away = (colour_statistics(picture) - self._mean) / self._scale - self._centres
        return self.names[int(np.einsum("sf,fg,sg->s", away, self._precision, away).argmin())]

    def accuracy(self, pictures: Sequence[Picture], styles: Sequence[str]) -> float:
        """The share of pictures whose style is recognised."""
        return float(np.mean([self(picture) == style for picture, style in zip(pictures, styles, strict=True)]))
