"""The face adapter's image projection."""

from __future__ import annotations

from torch import Tensor, nn


class ImageProjectionNetwork(nn.Module):
    """The contract ``image_projection``: a face embedding through the adapter's Resampler.

    Args:
        resampler: maps [R, 1, width] to face tokens [R, tokens, token_width], in the network's dtype.
    """

    def __init__(self, resampler: nn.Module) -> None:
        super().__init__()
        self.resampler = resampler

    def forward(self, embedding: Tensor) -> Tensor:
        """Embeddings f32 [R, width], not normalised, to tokens [R, tokens, token_width]."""
        dtype = next(self.resampler.parameters()).dtype
        tokens: Tensor = self.resampler(embedding.to(dtype).unsqueeze(1))
        return tokens
