"""What a file really is, told by its first bytes: downloads go wrong in few ways, and each has its own cure."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

_HEAD_BYTES = 1024
_MOST_HEADER_BYTES = 100_000_000  # what the safetensors library accepts
_AGAIN = "download it again"

_ARCHIVES = {
    b"\x1f\x8b": "a gzip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\xfd7zXZ": "an xz archive",
    b"Rar!": "a rar archive",
}


@dataclass(frozen=True)
class FileKind:
    """What a file is, as a phrase that follows "it is", and what can be done about that."""

    what: str
    hint: str


SAFETENSORS = FileKind("a safetensors file", "give it a name that ends in .safetensors")
TORCH = FileKind("a PyTorch pickle", "use the safetensors file of the same weights")


def file_kind(path: Path) -> FileKind | None:
    """The kind of a file; None if it is none that is known here.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    size = path.stat().st_size
    if not head:
        return FileKind("an empty file", _AGAIN)
    if _is_safetensors(head, size):
        return SAFETENSORS
    return _archive_kind(path, head) or _text_kind(head, size)


def _is_safetensors(head: bytes, size: int) -> bool:
    header_bytes = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and 2 <= header_bytes <= min(size - 8, _MOST_HEADER_BYTES)


def _archive_kind(path: Path, head: bytes) -> FileKind | None:
    if re.match(rb"\x80[\x02-\x05]", head):
        return TORCH
    if head.startswith(b"GGUF"):
        return FileKind("a GGUF file", "use the weights before they were quantised, as safetensors")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            is_torch = any(name.endswith("data.pkl") for name in archive.namelist())
        return TORCH if is_torch else FileKind("a zip archive", "unpack it")
    archive_kind = next((what for magic, what in _ARCHIVES.items() if head.startswith(magic)), None)
    return None if archive_kind is None else FileKind(archive_kind, "unpack it")


def _text_kind(head: bytes, size: int) -> FileKind | None:
    try:
        text = head.decode("utf-8-sig", errors="strict" if size <= _HEAD_BYTES else "ignore").strip()
    except UnicodeDecodeError:
        return None
    if text.startswith("version https://git-lfs.github.com/spec/"):
        pointed = re.search(r"^size (\d+)", text, re.MULTILINE)
        much = f" of {int(pointed[1]):,} bytes" if pointed else ""
        return FileKind(
            f"a Git LFS pointer to a file{much}",
            "fetch the file with `git lfs pull` in its repository, or download it by itself",
        )
    if re.match(r"<(!doctype|html|\?xml|head|!--)", text, re.IGNORECASE):
        return FileKind("a web page", "download the file itself: on a hub, the link with /resolve/ and not /blob/")
    if size <= _HEAD_BYTES and text.isprintable():
        return FileKind(f"the text {text[:80]!r}", _AGAIN)
    return None
