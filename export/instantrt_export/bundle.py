"""A checkpoint to a bundle: its networks exported, and the manifest that says what is in the folder."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from instantrt.bundle import MANIFEST, Manifest, PictureSizes, read_manifest, write_manifest
from instantrt.contracts import Precision
from instantrt.errors import BundleError
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.export import ExportedNetwork, ExportProgress, export_bundle
from instantrt_export.shapes import ExportShapes, Extent

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

    Raises:
        BundleError: ``only`` names networks to add to a bundle that was exported differently.
    """
    shapes = export_shapes(sizes, slots)
    manifest = _manifest(checkpoint, precision, sizes, shapes)
    if only:
        manifest = _joined(out, manifest)
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)  # until the new manifest is written this is no bundle
    exported = export_bundle(
        checkpoint,
        out,
        shapes=shapes,
        precision=precision,
        only=only,
        check_parity=check_parity,
        progress=progress,
    )
    networks = manifest.networks | {e.name: e.path.relative_to(out).as_posix() for e in exported}
    write_manifest(out, _with_networks(manifest, networks))
    return exported


def picture_sizes(
    checkpoint: Checkpoint,
    size: tuple[int, int] | None,
    smallest: tuple[int, int] | None,
    largest: tuple[int, int] | None,
) -> PictureSizes:
    """The default size (the checkpoint's own unless given) and the range, which is that one size unless given."""
    own = int(checkpoint.unet_config["sample_size"]) * checkpoint.dims.vae_stride
    default = size or (own, own)
    sizes = PictureSizes(default, smallest or default, largest or default)
    sizes.check(*default)
    return sizes


def export_shapes(sizes: PictureSizes, slots: int | None) -> ExportShapes:
    """What the graphs accept: symbolic where a range was asked for."""
    width, height = (_extent(low, high) for low, high in zip(sizes.min, sizes.max, strict=True))
    return ExportShapes(width, height) if slots is None else ExportShapes(width, height, slots=slots)


def _extent(low: int, high: int) -> Extent:
    return low if low == high else (low, high)


def _manifest(checkpoint: Checkpoint, precision: Precision, sizes: PictureSizes, shapes: ExportShapes) -> Manifest:
    return Manifest(
        dims=checkpoint.dims,
        precision=precision,
        sizes=sizes,
        slots=shapes.extents["B"],
        guidance_batch=shapes.extents["G"],
        scheduler=dict(checkpoint.scheduler_config),
        force_zeros_for_empty_prompt=bool(checkpoint.model_index.get("force_zeros_for_empty_prompt", True)),
        networks={},
        made_by={name: version(name) for name in MAKERS},
    )


def _joined(folder: Path, manifest: Manifest) -> Manifest:
    """``manifest`` with the networks that the bundle already has; the rest must agree.

    Raises:
        BundleError: the bundle was exported with other options or from another checkpoint.
    """
    if not (folder / MANIFEST).is_file():
        return manifest
    old = read_manifest(folder)
    fields = ("dims", "precision", "sizes", "slots", "guidance_batch", "scheduler", "force_zeros_for_empty_prompt")
    changed = [name for name in fields if getattr(old, name) != getattr(manifest, name)]
    if changed:
        raise BundleError(
            f"single networks cannot be added to {folder}: it was exported differently",
            found=", ".join(f"{n} {getattr(old, n)} against {getattr(manifest, n)}" for n in changed),
            hint="use the same options and checkpoint, or export everything again without --only",
        )
    return _with_networks(manifest, old.networks)


def _with_networks(manifest: Manifest, networks: dict[str, str]) -> Manifest:
    return Manifest(**{**vars(manifest), "networks": networks})
