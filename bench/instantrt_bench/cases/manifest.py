"""Manifests: whose photos and which prompts a benchmark goes over, as JSON or CSV, with the licence of every photo.

JSON is ``{"format": 1, "photos": [...], "prompts": [...]}`` with the fields of :class:`PhotoEntry` and
:class:`PromptEntry`. CSV has a header with any of those fields as columns; a row with a ``photo`` is a photo, a row
with a ``prompt`` is a prompt. Photos are paths relative to the manifest, or ``package:NAME/PATH`` for a file that an
installed Python package carries.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from instantrt.bundle import FileRecord
from instantrt.conditioning.styles import NO_STYLE, STYLES
from instantrt.errors import InstantRTError

FORMAT = 1
PACKAGE_PREFIX = "package:"
ID_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
EXAMPLE = '{"format": 1, "photos": [{"id": "me", "photo": "me.jpg", "licence": "own photo"}], "prompts": [...]}'


class ManifestError(InstantRTError):
    """A manifest cannot be read, or says something that cannot be used."""

    code = "manifest"


@dataclass(frozen=True)
class PhotoEntry:
    """One photo of a person.

    Args:
        id: short name, part of scenario ids and file names.
        photo: path relative to the manifest, or ``package:NAME/PATH``.
        licence: what allows its use; never empty.
        source: where it comes from.
        pose: another photo whose face placement is asked for, a path likewise.
    """

    id: str
    photo: str
    licence: str
    source: str = ""
    pose: str = ""


@dataclass(frozen=True)
class PromptEntry:
    """One text to render.

    Args:
        id: short name, part of scenario ids and file names.
        prompt: the text.
        negative_prompt: what to avoid; empty means none was given.
        style: a preset's name, empty for none.
    """

    id: str
    prompt: str
    negative_prompt: str = ""
    style: str = ""


Entry = TypeVar("Entry", PhotoEntry, PromptEntry)


@dataclass(frozen=True)
class Manifest:
    """A checked manifest.

    Args:
        path: where it was read from.
        photos: at least one, of different ids, all files present.
        prompts: at least one, of different ids.
    """

    path: Path
    photos: tuple[PhotoEntry, ...]
    prompts: tuple[PromptEntry, ...]

    def file(self, location: str) -> Path:
        """The file that a photo or pose names.

        Raises:
            ManifestError: there is no such file, or no such package.
        """
        return _file(location, self.path)

    def facts(self) -> dict[str, Any]:
        """What results say of it: its name, ids, and every photo's licence and digest."""
        return {
            "name": self.path.name,
            "photos": {
                p.id: {"licence": p.licence, "sha256": FileRecord.of(self.file(p.photo)).sha256} for p in self.photos
            },
            "prompts": [p.id for p in self.prompts],
        }


def default_manifest() -> Manifest:
    """Two public-domain portraits that scikit-image and matplotlib carry, and two prompts."""
    return read_manifest(Path(str(files("instantrt_bench.cases") / "manifests" / "public_domain.json")))


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest, by its suffix ``.json`` or ``.csv``.

    Raises:
        ManifestError: unreadable, an unknown or missing field, an id twice, a photo without licence or file.
    """
    readers = {".json": _from_json, ".csv": _from_csv}
    if path.suffix.lower() not in readers:
        raise ManifestError(f"cannot tell the format of {path}", found=path.suffix or "no suffix", hint="JSON or CSV")
    try:
        photos, prompts = readers[path.suffix.lower()](path)
    except OSError as error:
        raise ManifestError(f"{path} cannot be read", found=str(error.strerror), hint="check the path") from error
    except (ValueError, csv.Error) as error:  # ValueError: no JSON, or not UTF-8
        raise ManifestError(f"{path} cannot be read", found=str(error), hint=f"write it like {EXAMPLE}") from error
    manifest = Manifest(path, tuple(photos), tuple(prompts))
    _check(manifest)
    return manifest


def _from_json(path: Path) -> tuple[list[PhotoEntry], list[PromptEntry]]:
    data = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = repr(data.get("format")) if isinstance(data, dict) else type(data).__name__
        raise ManifestError(f"{path} is not a manifest of format {FORMAT}", found=found, hint=f"write {EXAMPLE}")
    unknown = set(data) - {"format", "photos", "prompts"}
    if unknown:
        hint = _known(("format", "photos", "prompts"))
        raise ManifestError(f"{path} has unknown fields", found=", ".join(sorted(unknown)), hint=hint)
    return (
        [_entry(PhotoEntry, row, f"photo {i} of {path}") for i, row in enumerate(_rows(data, "photos", path), 1)],
        [_entry(PromptEntry, row, f"prompt {i} of {path}") for i, row in enumerate(_rows(data, "prompts", path), 1)],
    )


def _rows(data: Mapping[str, Any], name: str, path: Path) -> Sequence[Mapping[str, Any]]:
    rows = data.get(name, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        what = f"{name} of {path} is not a list of objects"
        raise ManifestError(what, found=type(rows).__name__, hint=f"write it like {EXAMPLE}")
    return rows


def _from_csv(path: Path) -> tuple[list[PhotoEntry], list[PromptEntry]]:
    photos: list[PhotoEntry] = []
    prompts: list[PromptEntry] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        known = {field.name for entry in (PhotoEntry, PromptEntry) for field in fields(entry)}
        unknown = set(reader.fieldnames or []) - known
        if unknown:
            raise ManifestError(f"{path} has unknown columns", found=", ".join(sorted(unknown)), hint=_known(known))
        for row in reader:
            where = f"line {reader.line_num} of {path}"
            if None in row or None in row.values():
                found = f"{len(row)} columns in the header"
                raise ManifestError(f"{where} has more or fewer cells", found=found, hint="leave cells empty")
            filled = {key: value.strip() for key, value in row.items() if value.strip()}
            if ("photo" in filled) == ("prompt" in filled):
                raise ManifestError(
                    f"{where} must have either a photo or a prompt",
                    found=", ".join(filled) or "nothing",
                    hint="give each photo and each prompt a line of its own",
                )
            if "photo" in filled:
                photos.append(_entry(PhotoEntry, filled, where))
            else:
                prompts.append(_entry(PromptEntry, filled, where))
    return photos, prompts


def _entry(kind: type[Entry], row: Mapping[str, Any], where: str) -> Entry:
    known = {field.name: field for field in fields(kind)}
    unknown = set(row) - set(known)
    if unknown:
        raise ManifestError(f"{where} has unknown fields", found=", ".join(sorted(unknown)), hint=_known(set(known)))
    for name, field in known.items():
        value = row.get(name, "" if field.default is not MISSING else None)
        if not isinstance(value, str) or (field.default is MISSING and not value.strip()):
            hint = "say what allows the photo's use, e.g. 'own photo'" if name == "licence" else None
            raise ManifestError(f"{where} needs a text as {name}", found=repr(row.get(name)), hint=hint)
    return kind(**row)


def _check(manifest: Manifest) -> None:
    entries: Sequence[tuple[str, Sequence[PhotoEntry | PromptEntry]]] = (
        ("photos", manifest.photos),
        ("prompts", manifest.prompts),
    )
    for name, listed in entries:
        if not listed:
            raise ManifestError(f"{manifest.path} lists no {name}", found="none", hint=f"write it like {EXAMPLE}")
        ids = [entry.id for entry in listed]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        bad = [i for i in ids if not ID_PATTERN.fullmatch(i)]
        if twice or bad:
            raise ManifestError(
                f"ids of {name} in {manifest.path} must differ and consist of letters, digits, '_', '-' and '.'",
                found=", ".join([*twice, *bad]),
                hint="give each a name of its own",
            )
    for photo in manifest.photos:
        for location in filter(None, (photo.photo, photo.pose)):
            manifest.file(location)
    for prompt in manifest.prompts:
        if (prompt.style or NO_STYLE) not in STYLES:
            raise ManifestError(
                f"prompt {prompt.id} of {manifest.path} has an unknown style", found=prompt.style, hint=_known(STYLES)
            )


def _file(location: str, manifest: Path) -> Path:
    if not location.startswith(PACKAGE_PREFIX):
        path = manifest.parent / location
        if not path.is_file():
            hint = "photos are looked for beside the manifest"
            raise ManifestError(f"{manifest} names a photo that is not there", found=f"no file {path}", hint=hint)
        return path
    package, _, inside = location.removeprefix(PACKAGE_PREFIX).partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ManifestError(
            f"{manifest} names a photo in a package that is not installed",
            found=location,
            hint=f"pip install {package}",
        )
    for folder in spec.submodule_search_locations:
        if (Path(folder) / inside).is_file():
            return Path(folder) / inside
    what = f"{manifest} names a photo that its package does not carry"
    raise ManifestError(what, found=location, hint=f"name a file of the installed {package}, or a path")


def _known(names: object) -> str:
    return f"known are {', '.join(sorted(names))}"  # type: ignore[call-overload]
