"""How a bundle is replaced: as a whole, at the end, or not at all.

An export writes into a folder of its own inside the bundle. Publishing gives its files names that the manifest in place
does not list, then replaces the manifest in one rename, and then removes what the new one does not list. At every
instant the manifest in place lists files that are complete. A file that is exported again lies by turns under its own
name and below ``second/``; one that came out the same stays where it is.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from instantrt.atomic import output_errors, replace_text, sync, sync_folder
from instantrt.bundle import (
    MANIFEST,
    TOKENIZERS,
    FileRecord,
    Manifest,
    network_files,
    read_manifest,
    tokenizer_files,
)
from instantrt.contracts import network_contracts
from instantrt.errors import BundleError
from instantrt.lock import locked, locked_if_free

LOGGER = logging.getLogger(__name__)

LOCK = ".lock"
SECOND = "second"
SAME_IN_ADDED = (
    "dims",
    "precision",
    "sizes",
    "slots",
    "guidance_batch",
    "scheduler",
    "force_zeros_for_empty_prompt",
    "sources",
)
_STAGED = re.compile(r"export-[0-9a-f]{8}")
_ALONE = "use the same options and checkpoint, or export everything again without --only"


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A fresh folder in the bundle ``out`` for files that are not part of it yet; it is gone afterwards.

    Folders that killed exports left are removed first.

    Raises:
        OutputError: it cannot be made.
    """
    with ExitStack() as held:
        with output_errors(out):
            held.callback(_remove_empty, [] if out.exists() else [out])
            out.mkdir(parents=True, exist_ok=True)
            with locked(out / LOCK):
                _remove_dead(out)
                staged = out / f"export-{secrets.token_hex(4)}"
                staged.mkdir()
                held.callback(shutil.rmtree, staged, ignore_errors=True)
                held.enter_context(locked(staged / LOCK))
        yield staged


def publish(out: Path, staged: Path, manifest: Manifest, *, add: bool) -> Manifest:
    """Make the staged files the bundle ``out``, or with ``add`` a part of the bundle that is there.

    Args:
        out: the bundle.
        staged: a folder in it with the files, under their names.
        manifest: of what is staged; its files are measured here.
        add: keep the other networks of the bundle.

    Returns:
        the manifest that is in place now.

    Raises:
        BundleError: ``add``, and the bundle was exported differently or is damaged.
        OutputError: a write failed; then the bundle is as it was.
    """
    with output_errors(out):
        records = _measured(staged, manifest.networks)
        with locked(out / LOCK):
            old = manifest_in_place(out, needed=add)
            if add and old is not None:
                manifest = added(out, old, manifest)
            new, moves = _arranged(out, old, manifest, records)
            moved: list[str] = []
            try:
                for name, place in moves.items():
                    (out / place).parent.mkdir(parents=True, exist_ok=True)
                    moved.append(place)
                    (staged / name).replace(out / place)
                for folder in {(out / place).parent for place in moves.values()}:
                    sync_folder(folder)
                replace_text(staged / MANIFEST, new.text())
                (staged / MANIFEST).replace(out / MANIFEST)  # from this instant on the bundle is the new one
                sync_folder(out)
            except BaseException:
                _remove_unlisted(out, moved)
                raise
            _remove_unlisted(out, _names(manifest))
    return new


def manifest_in_place(out: Path, *, needed: bool) -> Manifest | None:
    """The manifest of the bundle ``out``; None if there is none, or none that can be read and none is needed.

    Raises:
        BundleError: it is needed and cannot be read.
    """
    if not (out / MANIFEST).is_file():
        return None
    try:
        return read_manifest(out)
    except BundleError:
        if needed:
            raise
        return None


def added(out: Path, old: Manifest, new: Manifest) -> Manifest:
    """``new`` with the other networks of the bundle ``out``.

    Raises:
        BundleError: these were exported with other options or from another checkpoint, or their files are damaged.
    """
    changed = [name for name in SAME_IN_ADDED if getattr(old, name) != getattr(new, name)]
    if changed:
        raise BundleError(
            f"single networks cannot be added to {out}: it was exported differently",
            found="; ".join(_difference(name, getattr(old, name), getattr(new, name)) for name in changed),
            hint=_ALONE,
        )
    kept = {network: name for network, name in old.networks.items() if network not in new.networks}
    damaged = [network for network, name in kept.items() if not _is_whole(out, old, _listed(old, network))]
    if damaged:
        raise BundleError(
            f"networks cannot be added to {out}: files of others are missing or truncated",
            found=", ".join(damaged),
            hint=f"name these after --only as well: {' '.join(damaged)}",
        )
    networks = old.networks | new.networks
    return replace(new, networks={name: networks[name] for name in network_contracts(new.dims) if name in networks})


def _difference(name: str, old: Any, new: Any) -> str:
    if name != "sources":
        return f"{name} {old} against {new}"
    if not old:
        return "it does not say which checkpoint it was made from"
    return f"another checkpoint: {', '.join(part for part in new if old.get(part) != new[part])} differ"


def _measured(staged: Path, networks: Iterable[str]) -> dict[str, FileRecord]:
    """Size and digest of the staged files, once the disk has them."""
    names = [name for group in _groups(networks) for name in group if (staged / name).is_file()]
    for name in names:
        with (staged / name).open("rb") as file:
            sync(file)
    return {name: FileRecord.of(staged / name) for name in names}


def _groups(networks: Iterable[str]) -> list[tuple[str, str]]:
    """Names of files that lie in one folder: an ONNX file finds its data beside it."""
    return [network_files(n) for n in networks] + [tokenizer_files(t) for t in TOKENIZERS]


def _arranged(
    out: Path, old: Manifest | None, manifest: Manifest, records: Mapping[str, FileRecord]
) -> tuple[Manifest, dict[str, str]]:
    """``manifest`` with all its files, and where the staged ones among them go."""
    in_use = _places_in_use(out)
    files: dict[str, FileRecord] = {}
    places: dict[str, str] = {}
    moves: dict[str, str] = {}
    for group in _groups(manifest.networks):
        listed = {} if old is None else {name: old.files[name] for name in group if name in old.files}
        staged = {name: records[name] for name in group if name in records}
        if old is not None and (not staged or listed == staged) and _is_whole(out, old, listed):
            files |= listed
            places |= {name: old.place(name) for name in listed}
            continue
        prefix = f"{SECOND}/" if any(name in in_use for name in group) else ""
        files |= staged
        moves |= {name: f"{prefix}{name}" for name in staged}
    places |= moves
    return replace(manifest, files=files, moved={n: p for n, p in places.items() if n != p}), moves


def _listed(manifest: Manifest, network: str) -> dict[str, FileRecord]:
    return {name: manifest.files[name] for name in network_files(network) if name in manifest.files}


def _is_whole(out: Path, manifest: Manifest, files: Mapping[str, FileRecord]) -> bool:
    """Whether these files are where the manifest says, with their sizes."""
    places = {name: out / manifest.place(name) for name in files}
    return bool(files) and all(p.is_file() and p.stat().st_size == files[n].bytes for n, p in places.items())


def _places_in_use(out: Path) -> set[str]:
    """Where the files of the manifest in place lie, whatever format it has; none if it cannot be read at all."""
    try:
        data = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        moved = dict(data.get("moved", {}))
        return {str(moved.get(name, name)) for name in data["files"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


def _names(manifest: Manifest) -> list[str]:
    """Every place at which a bundle of this format can have a file."""
    names = [name for group in _groups(network_contracts(manifest.dims)) for name in group]
    return [*names, *(f"{SECOND}/{name}" for name in names)]


def _remove_unlisted(out: Path, places: Iterable[str]) -> None:
    """Remove those files that the manifest in place does not list, and folders that are empty then."""
    in_use = _places_in_use(out)
    unlisted = [out / place for place in places if place not in in_use]
    for path in unlisted:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            LOGGER.warning("%s is not needed any more and cannot be removed: %s", path, error.strerror)
    folders = {path.parent for path in unlisted}
    _remove_empty([*sorted(folders), out / SECOND])


def _remove_empty(folders: Iterable[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # it is not there, or not empty
            folder.rmdir()


def _remove_dead(out: Path) -> None:
    """Remove the folders of exports that were killed: nobody holds their locks any more."""
    for folder in out.iterdir():
        if not _STAGED.fullmatch(folder.name) or not folder.is_dir():
            continue
        _remove_empty([folder])
        if (folder / LOCK).is_file():
            with locked_if_free(folder / LOCK) as dead:
                if dead:
                    shutil.rmtree(folder, ignore_errors=True)
