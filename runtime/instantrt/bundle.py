"""The bundle: a folder with everything the runtime needs, and the manifest that says what is in it.

``bundle.json`` is replaced last and in one step, and no file that it lists is ever overwritten: whoever opens the
folder finds the old bundle or the new one. A folder without it is an export that did not finish. Only files that the
format names belong to a bundle. Every file's size is checked when a bundle is opened and its SHA-256 when it is first
used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from instantrt.atomic import replace_text
from instantrt.contracts import ModelDims, NetworkContract, Precision, network_contracts
from instantrt.errors import BundleError, RequestError
from instantrt.request import check_sides
from instantrt.samplers import SchedulerConfig

MANIFEST = "bundle.json"
FORMAT = 2
TOKENIZERS = ("tokenizer", "tokenizer_2")
EXPORT_AGAIN = "export the bundle again with `instantrt export`"
COPY_LINKED = "copy the folder with `cp -rL`, or export to another folder"


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
    sources: dict[str, str] = field(default_factory=dict)  # part of the checkpoint -> SHA-256; empty if not known
    moved: dict[str, str] = field(default_factory=dict)  # file -> where it lies, if not under its name

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
            "sources": self.sources,
            "files": {name: asdict(record) for name, record in sorted(self.files.items())},
            "moved": self.moved,
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
            sources=dict(data.get("sources", {})),
            moved=dict(data.get("moved", {})),
        )

    def text(self) -> str:
        """The content of ``bundle.json``."""
        return json.dumps(self.to_json(), indent=1) + "\n"

    def place(self, name: str) -> str:
        """Where a file lies, relative to the bundle."""
        return self.moved.get(name, name)


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
        return self.path(name)

    def path(self, name: str) -> Path:
        """Where a file of the bundle lies; it is not looked at."""
        return self.folder / self.manifest.place(name)

    def file(self, name: str) -> Path:
        """A file of the bundle, its digest verified when it is asked for the first time."""
        if name not in self.manifest.files:
            listed = f"{len(self.manifest.files)} other files"
            raise BundleError(f"the bundle does not list a file {name}", found=listed, hint=EXPORT_AGAIN)
        path = self.path(name)
        if name not in self._verified:
            try:
                expected, found = self.manifest.files[name].sha256, FileRecord.of(path).sha256
            except OSError as error:
                raise BundleError(
                    f"{name} cannot be read any more",
                    found=f"{path}: {error.strerror}",
                    hint="load the bundle again if it was exported anew meanwhile",
                ) from error
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
            path = self.path(name)
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
                f"{path} has another format than this version reads",
                found=f"format {data['format']}, needed {FORMAT}",
                hint="use the InstantRT version that made the bundle, or " + EXPORT_AGAIN,
            )
        manifest = Manifest.from_json(data)
        contracts = json.loads(json.dumps(manifest.to_json()["contracts"]))
        others = [name for name in contracts if data["contracts"].get(name) != contracts[name]]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(
            f"{path} cannot be read as a manifest", found=f"{type(error).__name__}: {error}", hint=EXPORT_AGAIN
        ) from error
    if others:
        raise BundleError(
            f"{folder} was exported for networks with other inputs or outputs than this version's",
            found=f"other contracts of {', '.join(others)}",
            hint=EXPORT_AGAIN,
        )
    return manifest


def network_files(network: str) -> tuple[str, str]:
    """The names of a network's ONNX file and of its external data, which only large networks have."""
    return f"onnx/{network}.onnx", f"onnx/{network}.onnx.data"


def tokenizer_files(tokenizer: str) -> tuple[str, str]:
    """The names of a tokenizer's two files."""
    return f"{tokenizer}/tokenizer.json", f"{tokenizer}/tokenizer_config.json"


def linked_data(onnx_path: Path) -> str | None:
    """That an ONNX file's external data is a link, which libraries do not follow for fear of attacks; None if not."""
    data = Path(f"{onnx_path}.data")
    if data.is_symlink():
        return f"{data} is a link to {data.readlink()}"
    if data.is_file() and data.stat().st_nlink > 1:
        return f"{data} has {data.stat().st_nlink} names (hard links)"
    return None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Measure the files that belong to the bundle, all under their own names, and write ``bundle.json``.

    Raises:
        OutputError: it cannot be written.
    """
    names = [name for network in manifest.networks for name in network_files(network)]
    names += [name for tokenizer in TOKENIZERS for name in tokenizer_files(tokenizer)]
    files = {name: FileRecord.of(folder / name) for name in names if (folder / name).is_file()}
    replace_text(folder / MANIFEST, replace(manifest, files=files, moved={}).text())
