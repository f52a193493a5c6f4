"""What safetensors files hold, read from their headers: names and shapes of gigabytes in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from instantrt.errors import CheckpointError
from instantrt_export.file_kinds import SAFETENSORS, file_kind

Shape = tuple[int, ...]

VARIANTS = ("fp16", "bf16")
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")  # safetensors' names


@dataclass(frozen=True)
class WeightFiles:
    """The weights of one network as found on disk.

    Args:
        path: the safetensors file, or the index of a sharded set.
        variant: "fp16" or "bf16" where only such files are there.
        shapes: of every tensor.
        files: where every tensor is.
        usual: whether the libraries find these names by themselves.
    """

    path: Path
    variant: str | None
    shapes: Mapping[str, Shape]
    files: Mapping[str, Path] = field(default_factory=dict)
    usual: bool = True

    def tensors(self) -> Iterator[tuple[str, Path, Tensor]]:
        """Every tensor with its name and file, in the order of names, one in memory at a time."""
        return read_tensors(self.files)


def find_weights(folder: Path, stem: str) -> WeightFiles:
    """Finds ``stem.safetensors`` in ``folder``, whole or sharded, plain or as a variant, in this order.

    Raises:
        CheckpointError: none of them is there, or a file is missing or unreadable.
    """
    refusal: CheckpointError | None = None
    for name, variant, usual in _candidates(stem):
        path = folder / name
        if not path.is_file():
            continue
        try:
            files = _shards(path) if path.suffix == ".json" else [path]
            shapes = {file: read_shapes(file) for file in files}
        except CheckpointError as error:
            refusal = refusal or error  # another set may be whole
            continue
        places = {tensor: file for file, tensors in shapes.items() for tensor in tensors}
        return WeightFiles(path, variant, {n: shapes[f][n] for n, f in places.items()}, places, usual)
    raise refusal or _no_weights(folder, stem)


def read_shapes(path: Path) -> dict[str, Shape]:
    """Name and shape of every tensor of a safetensors file.

    Raises:
        CheckpointError: the file is missing, truncated, something else, or holds no floating-point numbers.
    """
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            odd = {name: part.get_dtype() for name, part in slices.items() if part.get_dtype() not in FLOATS}
    except (OSError, SafetensorError) as error:
        raise unreadable(path, "safetensors", error) from error
    quantised = {name: dtype for name, dtype in odd.items() if not name.endswith("position_ids")}
    if quantised:
        name, dtype = next(iter(quantised.items()))
        raise CheckpointError(
            f"{path} holds weights that are no floating-point numbers",
            found=f"{len(quantised)}, such as {name}: {dtype}",
            hint="use the weights before they were quantised",
        )
    return shapes


def read_tensors(files: Mapping[str, Path]) -> Iterator[tuple[str, Path, Tensor]]:
    """Tensors by name from safetensors files: name, file and tensor, in the order of names."""
    with ExitStack() as owned:
        opened = {path: owned.enter_context(safe_open(path, framework="pt")) for path in set(files.values())}
        for name in sorted(files):
            yield name, files[name], opened[files[name]].get_tensor(name)


def unreadable(path: Path, expected: str, error: Exception) -> CheckpointError:
    """A file that is not what its name says, with what it is instead."""
    try:
        kind = file_kind(path)
    except OSError as reason:
        return CheckpointError(f"{path} cannot be read", found=reason.strerror, hint="check the path and permissions")
    if kind is None or (kind is SAFETENSORS and expected == "safetensors"):
        found = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        hint = "download it again"
    else:
        found, hint = kind.what, kind.hint
    return CheckpointError(f"{path} is no readable {expected} file", found=found, hint=hint)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: the file is missing or holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, "JSON", error) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds no JSON object", found=type(data).__name__, hint="download the file again")
    return data


def _candidates(stem: str) -> Iterator[tuple[str, str | None, bool]]:
    """Names of files and indexes, their variant, and whether current libraries look for them."""
    yield f"{stem}.safetensors", None, True
    yield f"{stem}.safetensors.index.json", None, True
    for variant in VARIANTS:
        yield f"{stem}.{variant}.safetensors", variant, True
        yield f"{stem}.safetensors.index.{variant}.json", variant, True
        yield f"{stem}.safetensors.{variant}.index.json", variant, False  # older versions of diffusers


def _shards(index: Path) -> list[Path]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        what = f"{index} has no weight_map of tensor names to shard files"
        raise CheckpointError(what, found=type(weight_map).__name__, hint="download the file again")
    names = sorted(set(weight_map.values()))
    return [index.parent / name for name in names]


def _no_weights(folder: Path, stem: str) -> CheckpointError:
    names = sorted(p.name for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
    hint = f"{stem}.safetensors is expected; pickled weights of networks are not read"
    for name in names:
        if name.endswith((".bin", ".pt", ".pth", ".ckpt")) and file_kind(folder / name) is SAFETENSORS:
            hint = f"{name} is a safetensors file: call it {stem}.safetensors"
    found = ", ".join(names) or ("an empty folder" if folder.is_dir() else "no such folder")
    return CheckpointError(f"{folder}: no weights as safetensors", found=found, hint=hint)
