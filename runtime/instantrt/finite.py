"""Values that are no finite numbers end a request with an error: in a picture they would be black, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt.errors import NotFiniteError

Array = npt.NDArray[Any]
FP16_EXPONENT = 0x7C00  # all ones in infinities and in what is not a number


def all_finite(values: Array) -> bool:
    """Whether every value is a finite number. 2 us for nano's latents, 7 us for SDXL's."""
    if values.dtype == np.float16:  # NumPy converts these one by one, which takes 30 times as long
        return not ((values.view(np.uint16) & FP16_EXPONENT) == FP16_EXPONENT).any()
    return bool(np.isfinite(values).all())


def require_finite(network: str, output: str, values: Array) -> Array:
    """``values`` as they are.

    Raises:
        NotFiniteError: one is no finite number; the message names network and output.
    """
    if not all_finite(values):
        raise NotFiniteError(network, f"its output {output}")
    return values
