"""What safetensors files hold, read from their headers: names and shapes of gigabytes in milliseconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from instantrt.errors import CheckpointError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class WeightFiles:
    """The weights of one network as found on disk."""

    path: Path  # the safetensors file, or the index of a sharded set
    variant: str | None  # "fp16" where only that variant is there
    shapes: Mapping[str, Shape]


def find_weights(folder: Path, stem: str) -> WeightFiles:
    """Finds ``stem.safetensors`` in ``folder``, whole or sharded, plain or as fp16 variant, in this order.

    Raises:
        CheckpointError: none of them is there, or a file is unreadable.
    """
    candidates = (
        (f"{stem}.safetensors", None),
        (f"{stem}.safetensors.index.json", None),
        (f"{stem}.fp16.safetensors", "fp16"),
        (f"{stem}.safetensors.index.fp16.json", "fp16"),
    )
    for name, variant in candidates:
        path = folder / name
        if path.is_file():
            shapes = _sharded_shapes(path) if path.suffix == ".json" else read_shapes(path)
            return WeightFiles(path, variant, shapes)
    raise CheckpointError(
        f"{folder}: no weights as safetensors",
        found=", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder",
        hint=f"{candidates[0][0]} is expected; pickled weights of networks are not read",
    )


def read_shapes(path: Path) -> dict[str, Shape]:
    """Name and shape of every tensor of a safetensors file.

    Raises:
        CheckpointError: the file is missing, truncated or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is no readable safetensors file", found=str(error)) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: the file is missing or holds something else.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is no readable JSON file", found=str(error)) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds no JSON object", found=type(data).__name__)
    return data


def _sharded_shapes(index: Path) -> dict[str, Shape]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise CheckpointError(f"{index} has no weight_map of tensor names to shard files")
    shapes: dict[str, Shape] = {}
    for shard in sorted(set(weight_map.values())):
        shapes |= read_shapes(index.parent / shard)
    return shapes
