"""Which network spoiled a loop whose latents are not finite: found by a look at its inputs, then by running it again.

Only requests that have failed already pay for this; the loop itself is never slowed down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from instantrt.denoise import SLOT_SOURCES, DenoiseLoop, SlotInputs
from instantrt.device import Device
from instantrt.errors import NotFiniteError
from instantrt.finite import all_finite

MADE_BY = {
    "time_embeddings_unet": "time_embedding",
    "time_embeddings_identitynet": "time_embedding",
    "text_kv_unet": "cross_attention",
    "face_kv_unet": "cross_attention",
    "face_kv_identitynet": "cross_attention",
    "control_features": "control_embedding",
}
"""The conditioning network of each of the loop's inputs that one computes on the device."""


def not_finite_error(
    device: Device,
    loop: DenoiseLoop,
    batch: Sequence[SlotInputs],
    calls: int,
    cancelled: Callable[[], bool] | None = None,
) -> NotFiniteError:
    """The error for a loop that ended in latents that are not finite, naming the first network that gave such values.

    Args:
        device: the loop's.
        loop: as it was left.
        batch: what its slots were loaded with.
        calls: network calls that were launched.
        cancelled: as in :meth:`DenoiseLoop.launch`.

    Raises:
        CancelledError: the caller cancelled while the loop ran again.
    """
    for source in SLOT_SOURCES:
        if source.buffer in MADE_BY:
            value = source.value(batch[0])  # the slots of a request share what networks computed
            if not all_finite(value if isinstance(value, np.ndarray) else device.download(value)):
                return NotFiniteError(MADE_BY[source.buffer], f"its output for {source.buffer}")
    for slot, inputs in enumerate(batch):
        loop.load_slot(slot, inputs)

    def look(done: int, total: int) -> None:
        for network, output, buffer in loop.outputs:
            values = device.download(buffer)
            used = (
                values[:, : len(batch)] if network == "identitynet" else values[: len(batch)]
            )  # [G, B, ...], [B, ...]
            if not all_finite(used):
                raise NotFiniteError(network, f"call {done} of {total}, its output {output}")

    try:
        loop.launch(calls, look, cancelled, in_flight=1).finish()
    except NotFiniteError as error:
        return error
    return NotFiniteError("identitynet or unet", f"one of {calls} calls, and none when they were made again")
