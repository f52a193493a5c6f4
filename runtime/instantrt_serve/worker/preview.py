"""Previews: a linear map from latents to colours, fitted to pictures that this worker's own decoder made."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class PreviewMap:
    """Latents to a picture of one pixel per latent.

    Args:
        weights: f32 [channels + 1, 3]; the last row is added.
    """

    def __init__(self, weights: Array) -> None:
        self._weights = weights

    @classmethod
    def fit(cls, latents: Array, pixels: npt.NDArray[np.uint8]) -> PreviewMap:
        """The map with the least squared error.

        Args:
            latents: f32 [n, channels, h, w].
            pixels: u8 [n, H, W, 3], what the decoder made of them.
        """
        n, _, height, width = latents.shape
        stride = pixels.shape[1] // height
        means = pixels.reshape(n, height, stride, width, stride, 3).mean(axis=(2, 4))
        solution = np.linalg.lstsq(_rows(latents), means.reshape(-1, 3).astype(np.float32), rcond=None)[0]
        return cls(solution.astype(np.float32))

    def __call__(self, latents: Array, input_scale: float = 1.0) -> npt.NDArray[np.uint8]:
        """A picture u8 [h, w, 3] of latents f32 [channels, h, w].

        Args:
            latents: as the loop has them now.
            input_scale: of the step table's next row: brings noisy latents to the spread of finished ones.
        """
        values = _rows(latents[None] * np.float32(input_scale)) @ self._weights
        pixels: npt.NDArray[np.uint8] = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return pixels.reshape(*latents.shape[1:], 3)


def _rows(latents: Array) -> Array:
    """[n, channels, h, w] to [n h w, channels + 1], the last column ones."""
    flat = np.moveaxis(latents, 1, -1).reshape(-1, latents.shape[1])
    return np.concatenate([flat, np.ones((len(flat), 1), np.float32)], axis=1)
