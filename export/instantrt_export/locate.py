"""Where the parts of a checkpoint are: local paths, hub ids, and the default places inside a combined folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub

from instantrt.errors import CheckpointError
from instantrt_export.faces.graphs import FACE_MODELS
from instantrt_export.file_kinds import SAFETENSORS, TORCH, file_kind

Location = str | Path

BASE_FOLDERS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae", "scheduler")
IDENTITYNET_FOLDER = "ControlNetModel"
ADAPTER_FILES = ("ip-adapter.safetensors", "ip-adapter.bin")
FACE_FOLDERS = ("antelopev2", "antelopev2/antelopev2", "faces", "models/antelopev2")
"""In this order. Unpacking antelopev2.zip makes the folder once too often; insightface keeps its own below models/."""

_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
_PLAIN_WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
_FP16_WEIGHTS = (
    "*.fp16.safetensors",
    "*.fp16-*-of-*.safetensors",
    "*.safetensors.index.fp16.json",
    "*.safetensors.fp16.index.json",
)
_CONVERT = "StableDiffusionXLPipeline.from_single_file(FILE).save_pretrained(FOLDER)"
_SINGLE_FILES = (".safetensors", ".ckpt", ".pt")


@dataclass(frozen=True)
class Places:
    """The five places of an InstantID checkpoint on this machine. None of them is checked for its contents yet."""

    base: Path  # the SDXL folder in diffusers layout
    identitynet: Path  # folder with config.json
    adapter: Path  # ip-adapter.safetensors or ip-adapter.bin
    faces: Path  # folder with the ONNX files of the face detector and the face encoder


def locate(
    location: Location,
    *,
    identitynet: Location | None = None,
    adapter: Location | None = None,
    faces: Location | None = None,
    revision: str | None = None,
) -> Places:
    """Finds the parts of a checkpoint, downloading those given as hub ids.

    Args:
        location: the SDXL folder, or a folder that combines all parts.
        identitynet: the IdentityNet folder, or one that holds ``ControlNetModel/``. Default: inside ``location``.
        adapter: the adapter file, or a folder that holds one. Default: inside ``location``.
        faces: a folder with the face networks, or one that holds ``antelopev2/`` or ``faces/``. Default: inside
            ``location``.
        revision: the revision of ``location`` if that is a hub id. The others take theirs as ``owner/name@revision``.

    Raises:
        CheckpointError: a location does not exist or cannot be downloaded; or parts are missing, all of them listed.
    """
    base = _base(location, revision)
    missing: list[str] = []

    def part(option: str, given: Location | None, patterns: Sequence[str], find: Callable[[Path], Path | None]) -> Path:
        root = base if given is None else fetch(given, patterns)
        part = find(root)
        if part is None:
            missing.append(f"{option}: {_why_not(root)}")
        return part or root

    places = Places(
        base=base,
        identitynet=part("identitynet (ControlNetModel/)", identitynet, _identitynet_patterns(), _find_identitynet),
        adapter=part(f"adapter ({' or '.join(ADAPTER_FILES)})", adapter, ADAPTER_FILES, _find_adapter),
        faces=part("faces (antelopev2/ or faces/)", faces, _face_patterns(), _find_faces),
    )
    absent = [name for name in BASE_FOLDERS if not (base / name).is_dir()]
    missing += [f"{name}/: no such folder in {base}" for name in absent]
    if missing:
        hint = "name each part that lies elsewhere: its folder, its file or its hub id"
        raise CheckpointError(
            "The checkpoint is incomplete",
            found="\n  - ".join(["", *missing]),
            hint=hint if len(absent) < len(BASE_FOLDERS) else _instead_of_folders(base, hint),
        )
    return places


def fetch(
    location: Location, patterns: Sequence[str], *, ignore: Sequence[str] = (), revision: str | None = None
) -> Path:
    """A local path as it is; of a hub id (``owner/name`` or ``owner/name@revision``) the files matching ``patterns``.

    Raises:
        CheckpointError: no such path, or the hub does not give it.
    """
    path = Path(location).expanduser()
    with suppress(OSError):  # a name too long for a path
        if path.exists():
            return path
    match = _HUB_ID.fullmatch(str(location)) if isinstance(location, str) else None
    if match is None:
        hint = "give a path, or a hub id as owner/name"
        raise CheckpointError(f"No such file or folder: {location}", found="nothing there", hint=hint)
    repo, revision = match["repo"], match["revision"] or revision
    try:
        folder = huggingface_hub.snapshot_download(
            repo, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(ignore)
        )
    # Which exceptions come through depends on the hub client's version and its HTTP library.
    except Exception as error:
        raise CheckpointError(
            f"{location} is no path on this machine, and as a hub id it cannot be downloaded"
            + (f" at revision {revision}" if revision else ""),
            found=f"{type(error).__name__}: {error}",
            hint="check the name, the revision, the connection and (for gated models) `hf auth login`",
        ) from error
    return Path(folder)


def _base(location: Location, revision: str | None) -> Path:
    """The SDXL folder. Of a hub repository the plain weights; its fp16 variant where there are no plain ones."""
    every = ["model_index.json", *(f"{name}/*.json" for name in BASE_FOLDERS), "tokenizer*/*.txt"]
    every += [f"{IDENTITYNET_FOLDER}/*", *ADAPTER_FILES, *(f"{name}/*.onnx" for name in FACE_FOLDERS)]
    networks = ("text_encoder", "text_encoder_2", "unet", "vae")
    plain = [f"{name}/{file}" for name in networks for file in _PLAIN_WEIGHTS]
    base = fetch(location, [*every, *plain], ignore=_FP16_WEIGHTS, revision=revision)
    if not base.is_dir():
        kind = file_kind(base)
        single = kind in (SAFETENSORS, TORCH, None)
        raise CheckpointError(
            f"{location} is a file, not an SDXL folder in diffusers layout",
            found=kind.what if kind else "a file of unknown kind",
            hint=f"convert single-file checkpoints with diffusers: {_CONVERT}" if single or not kind else kind.hint,
        )
    bare = [name for name in networks if not any((base / name).glob("*.safetensors"))]
    if bare and not Path(location).expanduser().exists():
        fp16 = [f"{name}/{file}" for name in bare for file in _FP16_WEIGHTS]
        return fetch(location, fp16, revision=revision)
    return base


def _identitynet_patterns() -> tuple[str, ...]:
    files = ("config.json", "diffusion_pytorch_model*.safetensors", "diffusion_pytorch_model.safetensors.*.json")
    return (*files, *(f"{IDENTITYNET_FOLDER}/{file}" for file in files))


def _face_patterns() -> tuple[str, ...]:
    # In the hub's patterns * runs across folders, so files at the root can only be named in full.
    return (*FACE_MODELS, *(f"{name}/*.onnx" for name in FACE_FOLDERS))


def _why_not(root: Path) -> str:
    """Why a place has nothing usable."""
    if root.is_file():
        kind = file_kind(root)
        what = kind.what if kind else "a file"
        return f"{root} is {what}" + (f": {kind.hint}" if kind and "archive" in what else ", and a folder is needed")
    zips = sorted(path.name for path in root.glob("*.zip"))
    return f"nothing usable in {root}" + (f", unpack {' and '.join(zips)} there" if zips else "")


def _instead_of_folders(base: Path, otherwise: str) -> str:
    """What to do with a folder that has none of SDXL's: it may hold a single-file checkpoint."""
    single = next((p.name for p in sorted(base.iterdir()) if p.suffix in _SINGLE_FILES and p.is_file()), None)
    if single is None:
        return otherwise
    return f"if {single} is the checkpoint in a single file, convert it with diffusers: {_CONVERT}"


def _find_identitynet(root: Path) -> Path | None:
    folders = [root / IDENTITYNET_FOLDER, root]
    return next((f for f in folders if (f / "config.json").is_file()), None)


def _find_adapter(root: Path) -> Path | None:
    if root.is_file():
        return root
    return next((root / name for name in ADAPTER_FILES if (root / name).is_file()), None)


def _find_faces(root: Path) -> Path | None:
    folders = [*(root / name for name in FACE_FOLDERS), root]
    return next((f for f in folders if any(f.glob("*.onnx"))), None)
