"""The bundle: a folder with everything the runtime needs, and the manifest that says what is in it.

``bundle.json`` is written last, so a folder without it is an export that did not finish. Every file's size is checked
when a bundle is opened and its SHA-256 when the file is first used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from instantrt.contracts import ModelDims, NetworkContract, Precision, network_contracts
from instantrt.errors import BundleError, RequestError
from instantrt.request import check_sides
from instantrt.samplers import SchedulerConfig

MANIFEST = "bundle.json"
FORMAT = 2
EXPORT_AGAIN = "export the bundle again with `instantrt export`"


@dataclass(frozen=True)
class PictureSizes:
    """Picture sizes in pixels, (width, height), that a bundle's graphs accept: multiples of 64 from min to max."""

    default: tuple[int, int]
    min: tuple[int, int]
    max: tuple[int, int]

    def check(self, width: int, height: int) -> None:
        """Raise :class:`RequestError` unless the bundle can make a picture of this size."""
        check_sides(width, height)
        low, high = self.min, self.max
        if not (low[0] <= width <= high[0] and low[1] <= height <= high[1]):
            allowed = f"{low[0]}x{low[1]}" if low == high else f"{low[0]}x{low[1]} to {high[0]}x{high[1]}"
            raise RequestError(
                f"this bundle was exported for pictures of {allowed}",
                found=f"{width}x{height}",
                hint="ask for a size within that, or export a bundle with `instantrt export --size`",
            )


@dataclass(frozen=True)
class FileRecord:
    """Size and digest of one file of a bundle."""

    bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Measure a file."""
        with path.open("rb") as file:
            return cls(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


@dataclass(frozen=True)
class Manifest:
    """What ``bundle.json`` says."""

    dims: ModelDims
    precision: Precision
    sizes: PictureSizes
    slots: tuple[int, int]  # fewest and most slots that the graphs accept
    guidance_batch: tuple[int, int]  # smallest and largest guidance batch that the graphs accept
    scheduler: dict[str, Any]  # diffusers scheduler_config.json of the checkpoint
    force_zeros_for_empty_prompt: bool
    networks: dict[str, str]  # network name -> ONNX file, relative to the bundle
    made_by: dict[str, str]  # package versions that made the bundle
    files: dict[str, FileRecord] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``bundle.json``. The contracts are written out for readers of other languages."""
        contracts = network_contracts(self.dims)
        return {
            "format": FORMAT,
            "precision": self.precision,
            "sizes": asdict(self.sizes),
            "slots": self.slots,
            "guidance_batch": self.guidance_batch,
            "dims": self.dims.to_json(),
            "scheduler": self.scheduler,
            "force_zeros_for_empty_prompt": self.force_zeros_for_empty_prompt,
            "networks": self.networks,
            "contracts": {name: asdict(contracts[name]) for name in self.networks},
            "made_by": self.made_by,
            "files": {name: asdict(record) for name, record in sorted(self.files.items())},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """The inverse of :meth:`to_json`."""
        sizes = {key: (int(side[0]), int(side[1])) for key, side in data["sizes"].items()}
        return cls(
            dims=ModelDims.from_json(data["dims"]),
            precision=data["precision"],
            sizes=PictureSizes(**sizes),
            slots=(int(data["slots"][0]), int(data["slots"][1])),
            guidance_batch=(int(data["guidance_batch"][0]), int(data["guidance_batch"][1])),
            scheduler=dict(data["scheduler"]),
            force_zeros_for_empty_prompt=bool(data["force_zeros_for_empty_prompt"]),
            networks=dict(data["networks"]),
            made_by=dict(data["made_by"]),
            files={name: FileRecord(**record) for name, record in data["files"].items()},
        )


class Bundle:
    """An opened bundle. Use :meth:`open`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest
        self.contracts: dict[str, NetworkContract] = network_contracts(manifest.dims)
        self.scheduler = SchedulerConfig.from_json(manifest.scheduler)
        self._verified: set[str] = set()

    @classmethod
    def open(cls, folder: str | Path) -> Bundle:
        """Read the manifest and check that every file is there with its size.

        Raises:
            BundleError: not a bundle, a newer format, or missing and truncated files (all of them listed).
        """
        folder = Path(folder)
        bundle = cls(folder, read_manifest(folder))
        bundle._check_sizes()
        return bundle

    @property
    def dims(self) -> ModelDims:
        """The checkpoint's sizes."""
        return self.manifest.dims

    @property
    def precision(self) -> Precision:
        """The network dtype."""
        return self.manifest.precision

    def onnx(self, network: str) -> Path:
        """The verified ONNX file of a network (its external data verified with it)."""
        name = self.manifest.networks.get(network)
        if name is None:
            raise BundleError(
                f"the bundle has no network {network}",
                found=", ".join(self.manifest.networks) or "none",
                hint=f"add it with `instantrt export CHECKPOINT --out {self.folder} --only {network}`",
            )
        for part in (name, f"{name}.data"):
            if part in self.manifest.files:
                self.file(part)
        return self.folder / name

    def file(self, name: str) -> Path:
        """A file of the bundle, its digest verified when it is asked for the first time."""
        if name not in self.manifest.files:
            raise BundleError(f"the bundle does not list a file {name}", hint=EXPORT_AGAIN)
        path = self.folder / name
        if name not in self._verified:
            expected, found = self.manifest.files[name].sha256, FileRecord.of(path).sha256
            if found != expected:
                raise BundleError(
                    f"{name} was altered after the bundle was made",
                    found=f"SHA-256 {found}, expected {expected}",
                    hint=EXPORT_AGAIN,
                )
            self._verified.add(name)
        return path

    def _check_sizes(self) -> None:
        wrong = []
        for name, record in self.manifest.files.items():
            path = self.folder / name
            if not path.is_file():
                wrong.append(f"{name} is missing")
            elif path.stat().st_size != record.bytes:
                wrong.append(f"{name} has {path.stat().st_size} bytes instead of {record.bytes}")
        if wrong:
            raise BundleError(f"the bundle {self.folder} is incomplete", found="; ".join(wrong), hint=EXPORT_AGAIN)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle folder, without looking at the other files."""
    path = folder / MANIFEST
    if not path.is_file():
        found = "no such folder" if not folder.is_dir() else f"no {MANIFEST} in it; an export may have been interrupted"
        raise BundleError(f"{folder} is not a bundle", found=found, hint="make one with `instantrt export`")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != FORMAT:
            raise BundleError(
                f"{path} has format {data['format']}, this version reads format {FORMAT}",
                hint="use the InstantRT version that made the bundle, or " + EXPORT_AGAIN,
            )
        return Manifest.from_json(data)
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{path} cannot be read as a manifest", found=f"{type(error).__name__}: {error}", hint=EXPORT_AGAIN
        ) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Measure all files of the bundle and write ``bundle.json`` in one atomic step."""
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    listed = {n: FileRecord.of(folder / n) for n in names if not n.startswith((MANIFEST, "plans/"))}
    data = {**manifest.to_json(), "files": {n: asdict(record) for n, record in listed.items()}}
    partial = folder / f"{MANIFEST}.partial"
    partial.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / MANIFEST)
