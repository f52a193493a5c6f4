"""The two CLIP text encoders."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class TextEncoderNetwork(nn.Module):
    """The contracts ``text_encoder`` and ``text_encoder_2``: penultimate hidden states, and pooled text if projected.

    Args:
        model: transformers' ``CLIPTextModel``, or ``CLIPTextModelWithProjection`` for pooled text.
        pooled: whether pooled text is given.
    """

    def __init__(self, model: Any, *, pooled: bool) -> None:
        super().__init__()
        self.model, self.pooled = model, pooled

    def forward(self, input_ids: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Token ids i32 [R, 77] to hidden states [R, 77, width] and, where given, pooled text [R, width]."""
        encoded = self.model(input_ids, output_hidden_states=True, return_dict=True)
        hidden_states = encoded.hidden_states[-2]
        return (hidden_states, encoded.text_embeds) if self.pooled else hidden_states
