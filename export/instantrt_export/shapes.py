"""Which values the symbols of the contracts may take in an exported graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.export import Dim

from instantrt.contracts import NetworkContract, resolve_dim
from instantrt.errors import InstantRTError

SIZE_STEP_PX = 64  # pictures are multiples of this on both sides
FACES = (1, 8)  # faces encoded at once; the face networks' files are symbolic in it

_NAMES = {
    "B": "slots",
    "G": "the guidance batch",
    "H": "the height",
    "W": "the width",
    "R": "prompts",
    "T": "timesteps",
    "n": "faces",
}

Extent = int | tuple[int, int]  # one number, or the lowest and highest


class ExportOptionError(InstantRTError):
    """An option of the export is out of range."""

    code = "export"


@dataclass(frozen=True)
class ExportShapes:
    """A number makes an axis static, a pair (lowest, highest) makes it symbolic.

    Attributes:
        width: picture width in px, multiple of 64.
        height: picture height in px, multiple of 64.
        slots: pictures denoised at once (B).
        guidance_batch: guidance batch (G), within 1 and 2.
        prompts: prompts encoded at once (R).
        timesteps: timesteps embedded at once (T).
    """

    width: Extent
    height: Extent
    slots: Extent = (1, 4)
    guidance_batch: Extent = (1, 2)
    prompts: Extent = (1, 16)
    timesteps: Extent = (1, 200)

    def __post_init__(self) -> None:
        for symbol, (lowest, highest) in self.extents.items():
            if not 1 <= lowest <= highest:
                raise ExportOptionError(
                    f"{_NAMES[symbol]} must be at least 1, and the fewest not above the most",
                    found=f"{lowest} to {highest}",
                    hint="leave the option out, or name a number from 1",
                )
        for side, symbol in (("width", "W"), ("height", "H")):
            for pixels in self.extents[symbol]:
                if pixels % SIZE_STEP_PX:
                    raise ExportOptionError(
                        f"the {side} is not a multiple of {SIZE_STEP_PX}",
                        found=f"{pixels} px",
                        hint=f"use {max(1, round(pixels / SIZE_STEP_PX)) * SIZE_STEP_PX}",
                    )
        if self.extents["G"][1] > 2:
            what = "a guidance batch has one or two rows"
            raise ExportOptionError(what, found=str(self.guidance_batch), hint="give 1, 2 or (1, 2)")

    @property
    def extents(self) -> dict[str, tuple[int, int]]:
        """(lowest, highest) by symbol."""
        by_symbol = {
            "B": self.slots,
            "G": self.guidance_batch,
            "H": self.height,
            "W": self.width,
            "R": self.prompts,
            "T": self.timesteps,
            "n": FACES,
        }
        return {s: (e, e) if isinstance(e, int) else e for s, e in by_symbol.items()}

    def symbolic(self, symbol: str) -> bool:
        """Whether the symbol stays an axis name in the graph."""
        lowest, highest = self.extents[symbol]
        return lowest < highest

    def graph_dim(self, dim: int | str) -> int | str:
        """An axis of a contract as the graph shall declare it: its number if static, else its expression."""
        if isinstance(dim, int) or self.symbolic(dim.partition("/")[0]):
            return dim
        return resolve_dim(dim, {symbol: lowest for symbol, (lowest, _) in self.extents.items()})

    def example(self) -> dict[str, int]:
        """Values to trace with: inside the extents, different from each other and from 1 where they are symbolic."""
        chosen = {s: low if low == high else min(max(low, 2) + 1, high) for s, (low, high) in self.extents.items()}
        for symbol, offset in (("H", 1), ("W", 2)):
            low, high = self.extents[symbol]
            chosen[symbol] = min(max(low, SIZE_STEP_PX) + offset * SIZE_STEP_PX, high)
        return chosen

    def parity_sizes(self) -> list[dict[str, int]]:
        """Sizes to compare at: the smallest of everything, and the example where it differs."""
        smallest = {symbol: lowest for symbol, (lowest, _) in self.extents.items()}
        return [smallest] if smallest == self.example() else [smallest, self.example()]

    def request_sizes(self, size: tuple[int, int]) -> dict[str, int]:
        """The sizes of one guided request for a picture of ``size`` (width, height)."""
        fewest = {symbol: lowest for symbol, (lowest, _) in self.extents.items()}
        guided = {symbol: self.extents[symbol][1] for symbol in "G"}
        several = {symbol: min(max(fewest[symbol], 2), self.extents[symbol][1]) for symbol in "RT"}
        return fewest | guided | several | {"W": size[0], "H": size[1]}

    def dynamic_shapes(self, contract: NetworkContract) -> list[dict[int, Any]]:
        """For torch.export: of each input, the symbolic axes. Picture axes are multiples of one common unit."""
        units = {symbol: self._unit(symbol) for symbol in contract.symbols if self.symbolic(symbol)}
        return [{axis: self._dim(dim, units) for axis, dim in enumerate(spec.shape)} for spec in contract.inputs]

    def _unit(self, symbol: str) -> Any:
        lowest, highest = (n // SIZE_STEP_PX if symbol in "HW" else n for n in self.extents[symbol])
        return Dim(f"unit_{symbol}" if symbol in "HW" else symbol, min=lowest, max=highest)

    def _dim(self, dim: int | str, units: Mapping[str, Any]) -> Any:
        if isinstance(dim, int):
            return Dim.STATIC
        symbol, _, divisor = dim.partition("/")
        if symbol not in units:
            return Dim.STATIC
        return SIZE_STEP_PX // int(divisor or 1) * units[symbol] if symbol in "HW" else units[symbol]
