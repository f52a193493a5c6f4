"""For which picture sizes a bundle is exported, from the checkpoint and the options."""

from __future__ import annotations

from instantrt.bundle import PictureSizes
from instantrt.request import SIDE_MULTIPLE
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.shapes import ExportOptionError, ExportShapes, Extent


def picture_sizes(
    checkpoint: Checkpoint,
    size: tuple[int, int] | None,
    smallest: tuple[int, int] | None,
    largest: tuple[int, int] | None,
) -> PictureSizes:
    """The default size (the checkpoint's own unless given) and the range, which is that one size unless given.

    Raises:
        ExportOptionError: a size is no multiple of 64, the range is empty or without the default size, or neither the
            command nor the checkpoint says a size.
    """
    default = size or _own_size(checkpoint)
    sizes = PictureSizes(default, smallest or default, largest or default)
    middle = ("--size" if size else "the checkpoint's size", default)
    low, high = ("--min-size", sizes.min), ("--max-size", sizes.max)
    for name, sides in (middle, low, high):
        _check_multiple(name, sides)
    for one, other in ((low, middle), (middle, high)):
        _check_order(*one, *other)
    return sizes


def _check_multiple(name: str, sides: tuple[int, int]) -> None:
    if any(side % SIDE_MULTIPLE or side < SIDE_MULTIPLE for side in sides):
        raise ExportOptionError(
            f"both sides of a picture are multiples of {SIDE_MULTIPLE}",
            found=f"{name} {_text(sides)}",
            hint=f"name another, for example --size {_text(_nearest(sides))}",
        )


def _check_order(name: str, sides: tuple[int, int], above: str, larger: tuple[int, int]) -> None:
    if any(a > b for a, b in zip(sides, larger, strict=True)):
        raise ExportOptionError(
            f"{name} is above {above}",
            found=f"{_text(sides)} and {_text(larger)}",
            hint="choose --min-size, --size and --max-size so that none is above the next; --min-size and --max-size "
            "are the same as --size unless given",
        )


def _own_size(checkpoint: Checkpoint) -> tuple[int, int]:
    """Of the pictures that the UNet was trained on: diffusers has one number, or height and width, in latent pixels."""
    sample = checkpoint.unet_config.get("sample_size")
    sides = [sample, sample] if isinstance(sample, int) else sample
    if not isinstance(sides, (list, tuple)) or len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise ExportOptionError(
            "the checkpoint does not say for which picture size it was made",
            found=f"sample_size {sample!r} in {checkpoint.places.base / 'unet' / 'config.json'}",
            hint="name one, for example --size 1024x1024",
        )
    height, width = (int(side) * checkpoint.dims.vae_stride for side in sides)
    return width, height


def _nearest(sides: tuple[int, int]) -> tuple[int, int]:
    width, height = (max(1, round(side / SIDE_MULTIPLE)) * SIDE_MULTIPLE for side in sides)
    return width, height


def _text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def export_shapes(sizes: PictureSizes, slots: int | None) -> ExportShapes:
    """What the graphs accept: symbolic where a range was asked for."""
    width, height = (_extent(low, high) for low, high in zip(sizes.min, sizes.max, strict=True))
    return ExportShapes(width, height) if slots is None else ExportShapes(width, height, slots=slots)


def _extent(low: int, high: int) -> Extent:
    return low if low == high else (low, high)
