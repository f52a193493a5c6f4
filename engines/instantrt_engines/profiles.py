"""Optimisation profiles from the contracts: which sizes a plan accepts and which it is tuned for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

from instantrt.bundle import Manifest
from instantrt.contracts import STEP_ROWS, NetworkContract, TensorSpec
from instantrt.plan import Extent, Profile
from instantrt_engines.options import BuildOptionError

Profiles = Literal["each", "range"]

PROMPTS: Extent = (1, 2, 2)  # a prompt and its negative; a face and its negative
TIMESTEPS: Extent = (1, 30, STEP_ROWS - 1)  # 100 Heun steps are 199 network calls
FACES: Extent = (1, 1, 4)


@dataclass(frozen=True)
class ShapeOptions:
    """Which sizes plans shall accept.

    Args:
        slots: fewest, best and most pictures denoised at once.
        sizes: picture sizes in pixels, (width, height); the bundle's default if empty.
        slot_profiles: ``"each"`` tunes one static profile per number of slots, ``"range"`` one dynamic profile that
            spans them.
        size_profiles: ``"each"`` tunes one static profile per size, ``"range"`` one dynamic profile that spans them and
            is tuned for the first.
        guidance_batch: guidance batch, each with a profile of its own.
    """

    slots: Extent = (1, 1, 1)
    sizes: tuple[tuple[int, int], ...] = ()
    size_profiles: Profiles = "each"
    guidance_batch: tuple[int, ...] = (1, 2)
    slot_profiles: Profiles = "range"

    def __post_init__(self) -> None:
        low, best, high = self.slots
        if not 1 <= low <= best <= high:
            raise BuildOptionError(
                "slots are MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX",
                found=":".join(map(str, self.slots)),
                hint="use for example 1:1:4",
            )
        if not self.guidance_batch or not set(self.guidance_batch) <= {1, 2}:
            raise BuildOptionError(
                "a guidance batch is 1, 2 or both",
                found=", ".join(map(str, self.guidance_batch)) or "none",
                hint="use 1 for guidance off, 2 for guidance on",
            )


def profiles_for(contract: NetworkContract, options: ShapeOptions, manifest: Manifest) -> tuple[Profile, ...]:
    """The profiles of one network, in order; networks without free sizes get one empty profile.

    Raises:
        BuildOptionError: a size that the bundle's graphs do not accept.
    """
    check_within(options, manifest)
    extents: dict[str, Extent] = {"R": PROMPTS, "T": TIMESTEPS, "n": FACES}
    profiles: list[Profile] = []
    guidance_batch = options.guidance_batch if "G" in contract.symbols else (1,)
    sizes = _size_extents(options, manifest) if "H" in contract.symbols else [(_fixed(1), _fixed(1))]
    for (width, height), slots, rows in product(sizes, _slot_extents(contract, options), guidance_batch):
        all_extents = {**extents, "B": slots, "G": _fixed(rows), "W": width, "H": height}
        profiles.append({symbol: all_extents[symbol] for symbol in contract.symbols})
    return tuple(profiles)


def check_within(options: ShapeOptions, manifest: Manifest) -> None:
    """Raise :class:`BuildOptionError` unless the bundle's graphs accept everything that is asked for."""
    for what, low, high, allowed in (
        ("slots", options.slots[0], options.slots[2], manifest.slots),
        ("guidance batch", min(options.guidance_batch), max(options.guidance_batch), manifest.guidance_batch),
    ):
        if not allowed[0] <= low <= high <= allowed[1]:
            asked = str(low) if low == high else f"{low} to {high}"
            raise BuildOptionError(
                f"{what} {asked}: outside what this bundle was exported for",
                found=f"its graphs accept {allowed[0]} to {allowed[1]}",
                hint="ask for less, or export the bundle again with `instantrt export`",
            )
    for width, height in options.sizes:
        manifest.sizes.check(width, height)


def static_symbols(profiles: Sequence[Profile]) -> dict[str, int]:
    """The symbols that have one and the same value in all profiles: those axes can be constants."""
    first = profiles[0]
    return {
        symbol: extent[0]
        for symbol, extent in first.items()
        if extent[0] == extent[2] and all(profile[symbol] == extent for profile in profiles)
    }


def corner(profile: Profile, index: Literal[0, 1, 2]) -> dict[str, int]:
    """The fewest (0), best (1) or most (2) of every symbol."""
    return {symbol: extent[index] for symbol, extent in profile.items()}


def input_shapes(spec: TensorSpec, profile: Profile) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The smallest, best and largest shape of one input."""
    return (
        spec.resolve(corner(profile, 0)),
        spec.resolve(corner(profile, 1)),
        spec.resolve(corner(profile, 2)),
    )


def _slot_extents(contract: NetworkContract, options: ShapeOptions) -> list[Extent]:
    if contract.stage == "conditioning" or "B" not in contract.symbols:
        return [_fixed(1)]  # a request has one control picture
    low, _, high = options.slots
    return [_fixed(slots) for slots in range(low, high + 1)] if options.slot_profiles == "each" else [options.slots]


def _size_extents(options: ShapeOptions, manifest: Manifest) -> list[tuple[Extent, Extent]]:
    sizes = options.sizes or (manifest.sizes.default,)
    if options.size_profiles == "each":
        return [(_fixed(width), _fixed(height)) for width, height in dict.fromkeys(sizes)]
    widths, heights = zip(*sizes, strict=True)
    return [((min(widths), widths[0], max(widths)), (min(heights), heights[0], max(heights)))]


def _fixed(value: int) -> Extent:
    return (value, value, value)
