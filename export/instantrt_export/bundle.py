"""A checkpoint to a bundle: its networks exported, and the manifest that says what is in the folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from instantrt.atomic import check_output
from instantrt.bundle import MANIFEST, Manifest, PictureSizes, network_files
from instantrt.contracts import Precision
from instantrt.request import SIDE_MULTIPLE
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.export import ExportedNetwork, ExportProgress, chosen_networks, export_bundle
from instantrt_export.publish import added, manifest_in_place, publish, staging
from instantrt_export.shapes import ExportOptionError, ExportShapes, Extent
from instantrt_export.sources import read_sources

_ORDER = {"--min-size": 0, "--max-size": 2}
MAKERS = ("instantrt", "torch", "diffusers", "transformers", "onnx", "onnxscript")


def write_bundle(
    checkpoint: Checkpoint,
    out: Path,
    sizes: PictureSizes,
    *,
    slots: int | None = None,
    precision: Precision = "fp32",
    only: Sequence[str] | None = None,
    check_parity: bool = True,
    progress: ExportProgress = lambda _name, _done, _total: None,
) -> list[ExportedNetwork]:
    """Exports networks into the bundle ``out``: options as of :func:`export_bundle`.

    The bundle is replaced as a whole at the end; with ``only``, networks are added to what it has. Until then, and if
    anything fails, it stays as it was. Two exports at once do not disturb each other.

    Raises:
        ExportOptionError: an option is out of range, or ``out`` is a checkpoint.
        CheckpointError: a weight is not finite, or too large for fp16.
        BundleError: ``only`` names networks to add to a bundle that was exported differently.
        ParityError: a network does not compute what its torch module does.
        OutputError: the bundle cannot be written.
    """
    shapes, names = export_shapes(sizes, slots), chosen_networks(checkpoint, only)
    _check_place(checkpoint, out)
    manifest = _manifest(checkpoint, precision, sizes, shapes, names)
    old = manifest_in_place(out, needed=only is not None)
    if only is not None and old is not None:
        added(out, old, replace(manifest, sources=old.sources))  # refuses before the weights are read
    manifest = replace(manifest, sources=read_sources(checkpoint, precision, progress))
    if only is not None and old is not None:
        added(out, old, manifest)
    with staging(out) as staged:
        exported = export_bundle(
            checkpoint,
            staged,
            shapes=shapes,
            precision=precision,
            only=names,
            check_parity=check_parity,
            usual_size=sizes.default,
            progress=progress,
        )
        published = publish(out, staged, manifest, add=only is not None)
    return [replace(e, path=out / published.place(network_files(e.name)[0])) for e in exported]


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
    named = {"--size" if size else "the checkpoint's size": default, "--min-size": sizes.min, "--max-size": sizes.max}
    for name, sides in named.items():
        if any(side % SIDE_MULTIPLE or side < SIDE_MULTIPLE for side in sides):
            raise ExportOptionError(
                f"both sides of a picture are multiples of {SIDE_MULTIPLE}",
                found=f"{name} {_text(sides)}",
                hint=f"name another, for example --size {_text(_nearest(sides))}",
            )
    for (name, low), (above, high) in pairwise(sorted(named.items(), key=lambda one: _ORDER.get(one[0], 1))):
        if any(a > b for a, b in zip(low, high, strict=True)):
            raise ExportOptionError(
                f"{name} is above {above}",
                found=f"{_text(low)} and {_text(high)}",
                hint="choose --min-size, --size and --max-size so that none is above the next; "
                "--min-size and --max-size are the same as --size unless given",
            )
    return sizes


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


def _check_place(checkpoint: Checkpoint, out: Path) -> None:
    """Refuse a place that cannot be written to, and the checkpoint itself, whose tokenizers would be replaced.

    Raises:
        ExportOptionError, OutputError.
    """
    places = checkpoint.places
    if out.is_dir() and any(part.is_dir() and out.samefile(part) for part in (places.base, places.identitynet)):
        raise ExportOptionError(
            "a bundle cannot be written into the checkpoint's own folder",
            found=str(out),
            hint=f"name another folder, for example {out / 'bundle'}",
        )
    check_output(out / MANIFEST)


def _manifest(
    checkpoint: Checkpoint, precision: Precision, sizes: PictureSizes, shapes: ExportShapes, networks: Sequence[str]
) -> Manifest:
    return Manifest(
        dims=checkpoint.dims,
        precision=precision,
        sizes=sizes,
        slots=shapes.extents["B"],
        guidance_batch=shapes.extents["G"],
        scheduler=dict(checkpoint.scheduler_config),
        force_zeros_for_empty_prompt=bool(checkpoint.model_index.get("force_zeros_for_empty_prompt", True)),
        networks={name: network_files(name)[0] for name in networks},
        made_by={name: version(name) for name in MAKERS},
    )
