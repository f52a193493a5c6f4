"""A checkpoint to a bundle: its networks exported, and the manifest that says what is in the folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from instantrt.atomic import check_output
from instantrt.bundle import MANIFEST, Manifest, PictureSizes, network_files
from instantrt.contracts import NET_DTYPES, Precision
from instantrt.errors import OutputError
from instantrt.version import version_of
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.export import ExportedNetwork, ExportProgress, chosen_networks, export_bundle
from instantrt_export.picture_sizes import export_shapes
from instantrt_export.publish import added, manifest_in_place, publish, staging
from instantrt_export.shapes import ExportOptionError, ExportShapes
from instantrt_export.sources import read_sources

_SHARE_IN_THE_NETWORK = 0.8  # of a UNet's weights; the keys and values of cross-attention are a network of their own
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
    vae_precision: Precision | None = None,
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
    _check_room(checkpoint, out, precision, names)
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
            vae_precision=vae_precision,
            usual_size=sizes.default,
            progress=progress,
        )
        published = publish(out, staged, manifest, add=only is not None)
    return [replace(e, path=out / published.place(network_files(e.name)[0])) for e in exported]


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


def _check_room(checkpoint: Checkpoint, out: Path, precision: Precision, networks: Sequence[str]) -> None:
    """Refuse a disk that cannot hold the largest networks' weights.

    Raises:
        OutputError.
    """
    components = [component for name, component in checkpoint.components.items() if name in networks]
    weights = sum(weight.numel() for c in components for weight in c.skeleton.state_dict().values())
    needed = _SHARE_IN_THE_NETWORK * weights * NET_DTYPES[precision].itemsize
    folder = next(place for place in (out.absolute(), *out.absolute().parents) if place.is_dir())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"the disk cannot hold the bundle {out}",
            found=f"{free / 1e9:.2f} GB are free in {folder}, its weights take at least {needed / 1e9:.2f} GB",
            hint="make room there, or name another place",
        )


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
        made_by={name: version_of(name) for name in MAKERS},
    )
