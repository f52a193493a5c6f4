"""What the loop networks share: rows of tables gathered by step, guidance, and the sampler's linear maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from instantrt.contracts import STEP_COLUMNS


def rows_at_step(table: Tensor, step: Tensor) -> Tensor:
    """Each slot's own row of its table; a step past the end gives the last row.

    Args:
        table: [B, rows, ...] of any dtype.
        step: i32 [B], not negative.

    Returns:
        [B, ...], ``table[b, min(step[b], rows - 1)]``.
    """
    slots, rows = table.shape[:2]
    # One flat Gather: ONNX's Gather has no batch axis, and torch.gather would need an index as large as its output.
    first_row = torch.arange(slots, dtype=torch.int32, device=step.device) * rows
    return table.flatten(0, 1).index_select(0, first_row + step.clamp(max=rows - 1))


def step_coefficients(step_table: Tensor, step: Tensor) -> dict[str, Tensor]:
    """The columns of each slot's step-table row, f32 [B, 1, 1, 1] by the names of ``STEP_COLUMNS``."""
    row = rows_at_step(step_table, step)[:, :, None, None, None]
    return {name: column.squeeze(1) for name, column in zip(STEP_COLUMNS, row.split(1, dim=1), strict=True)}


def repeat_for_guidance(x: Tensor, guidance_batch: int) -> Tensor:
    """[B, ...] to the rows [G*B, ...] of a guidance batch of G, row = g*B + b."""
    return x.unsqueeze(0).expand(guidance_batch, *([-1] * x.ndim)).flatten(0, 1)


def time_embeddings_at_step(time_embeddings: Tensor, step: Tensor, widths: Sequence[int]) -> tuple[Tensor, ...]:
    """Of the time embeddings [B, rows, G, sum of widths] those of each slot's step: [G*B, width] for each resnet."""
    rows = rows_at_step(time_embeddings, step).transpose(0, 1).flatten(0, 1)
    parts: tuple[Tensor, ...] = rows.split(list(widths), dim=1)
    return parts


def guided_prediction(prediction: Tensor, guidance: Tensor) -> Tensor:
    """Classifier-free guidance (Ho & Salimans 2022) between the first and the last row of the guidance batch, in fp32.

    Args:
        prediction: [G, B, 4, h, w] of the network's dtype; the negative row first.
        guidance: f32 [B, 1, 1, 1].

    Returns:
        f32 [B, 4, h, w]. With G = 1 the difference is exactly zero, so the same graph serves G = 1.
    """
    negative, positive = prediction[0].float(), prediction[-1].float()
    return negative + guidance * (positive - negative)


def sampler_step(
    latents: Tensor, history: Tensor, noise: Tensor, prediction: Tensor, row: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Next latents and history: x' = a x + b eps + c h + s z and h' = d x + e eps + f h, all f32 [B, 4, h, w]."""
    next_latents = row["a"] * latents + row["b"] * prediction + row["c"] * history + row["s"] * noise
    next_history = row["d"] * latents + row["e"] * prediction + row["f"] * history
    return next_latents, next_history
