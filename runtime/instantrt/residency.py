"""How long a network's weights stay on the device: for good, for its stage of a request, or only in part."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal, get_args

Residency = Literal["resident", "staged", "streaming"]
ResidencyOption = Literal["resident", "staged", "streaming", "auto"]

RESIDENCIES: tuple[Residency, ...] = get_args(Residency)
"""From fastest to smallest.

``resident``: the weights of all networks are loaded once.
``staged``: those of the conditioning, denoise and decode networks take turns; every request loads them again.
``streaming``: those of networks that were built for it stay in host memory as far as there is no room.
"""
RESIDENCY_OPTIONS: tuple[ResidencyOption, ...] = get_args(ResidencyOption)
"""``auto`` is the first of :data:`RESIDENCIES` that fits into the memory that is free when a bundle is loaded."""

Loading = Callable[[], AbstractContextManager[None]]
"""What surrounds each loading of weights during a request, to time it."""
