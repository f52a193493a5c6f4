"""What a bundle was made from: every weight of a checkpoint read once, checked, and digested."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor

from instantrt.contracts import Precision
from instantrt.errors import CheckpointError
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.components import Component
from instantrt_export.faces.graphs import detector_graph, encoder_graph, load_face_model

FP16_OVERFLOW = 65520.0  # the smallest number that rounds to infinity in fp16
NAMED_PROBLEMS = 5
LIBRARY_KEYS = ("_name_or_path", "_diffusers_version", "transformers_version", "torch_dtype", "dtype")
TOKENIZER_SOURCES = (
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)

Named = tuple[str, Path, Tensor]


def read_sources(
    checkpoint: Checkpoint,
    precision: Precision,
    progress: Callable[[str, int, int], None] = lambda _name, _done, _total: None,
) -> dict[str, str]:
    """Reads every weight of a checkpoint: the SHA-256 of each part, over configs, names, shapes and numbers.

    However the weights are split into files, the same ones have the same digest. One tensor is in memory at a time.

    Args:
        checkpoint: the checkpoint.
        precision: what the weights will be converted to.
        progress: called with ("reading the weights", parts done, parts in all).

    Raises:
        CheckpointError: weights that are not finite, or too large for fp16, after all parts were looked at; or a face
            network that cannot be used.
    """
    problems: list[str] = []
    digests: dict[str, str] = {}
    readers = _readers(checkpoint, precision, problems)
    for done, (part, read) in enumerate(readers.items()):
        progress("reading the weights", done, len(readers))
        digests[part] = read()
    if problems:
        more = len(problems) - NAMED_PROBLEMS
        listed = [*problems[:NAMED_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
        raise CheckpointError(
            f"The checkpoint in {checkpoint.places.base} has weights that no network can compute with",
            found="\n  - ".join(["", *listed]),
            hint="download files with nan or inf again; for numbers that are too large for fp16 use --precision fp32",
        )
    return digests


def _readers(checkpoint: Checkpoint, precision: Precision, problems: list[str]) -> dict[str, Callable[[], str]]:
    limit = FP16_OVERFLOW if precision == "fp16" else np.inf
    of_vae = np.inf if checkpoint.vae_config.get("force_upcast") else limit
    readers: dict[str, Callable[[], str]] = {}
    for name, component in checkpoint.components.items():
        most = of_vae if name == "vae" else limit
        readers[name] = lambda c=component, most=most: _component_digest(c, most, problems)  # type: ignore[misc]
    for folder in (checkpoint.tokenizer_dir, checkpoint.tokenizer_2_dir):
        readers[folder.name] = lambda folder=folder: _tokenizer_digest(folder)  # type: ignore[misc]
    readers["adapter"] = lambda: _digest(_checked(checkpoint.adapter.tensors(), limit, problems))
    readers["face_detector"] = lambda: _detector_digest(checkpoint, problems)
    readers["face_encoder"] = lambda: _encoder_digest(checkpoint, problems)
    return readers


def _component_digest(component: Component, limit: float, problems: list[str]) -> str:
    config = {key: value for key, value in component.file_config.items() if key not in LIBRARY_KEYS}
    return _digest(_checked(component.files.tensors(), limit, problems), json.dumps(config, sort_keys=True))


def _checked(tensors: Iterable[Named], limit: float, problems: list[str]) -> Iterator[Named]:
    """The tensors; what is wrong with their numbers goes to ``problems``."""
    for name, path, tensor in tensors:
        if tensor.numel() and tensor.is_floating_point():
            wide = tensor if tensor.element_size() > 1 else tensor.float()  # 8 bits: no kernel
            low, high = (float(extreme) for extreme in torch.aminmax(wide))
            largest = max(-low, high)
            if not np.isfinite(largest):
                problems.append(f"{path}: {name} holds {'nan' if np.isnan(largest) else 'inf'}")
            elif largest >= limit:
                problems.append(f"{path}: {name} reaches {largest:.6g}, fp16 holds numbers up to 65504")
        yield name, path, tensor


def _digest(tensors: Iterable[Named], text: str = "") -> str:
    """The SHA-256 of a text and of names, dtypes, shapes and numbers of tensors, in their order."""
    digest = hashlib.sha256(text.encode())
    for name, _, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tokenizer_digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in TOKENIZER_SOURCES:
        path = folder / name
        content = path.read_bytes() if path.is_file() else b""
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _detector_digest(checkpoint: Checkpoint, problems: list[str]) -> str:
    models = checkpoint.face_models
    return _face_digest(
        models.detector, lambda: detector_graph(models.detector, models.detector_kind, models.detector_px), problems
    )


def _encoder_digest(checkpoint: Checkpoint, problems: list[str]) -> str:
    models = checkpoint.face_models
    return _face_digest(
        models.encoder,
        lambda: encoder_graph(models.encoder, models.encoder_kind, models.face_px, models.embedding_width),
        problems,
    )


def _face_digest(path: Path, convert: Callable[[], onnx.ModelProto], problems: list[str]) -> str:
    """Of the file and its weights, which may lie beside it; the conversion shows whether it is the right network."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    for name, array in _arrays(load_face_model(path)).items():
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            problems.append(f"{path}: {name} holds numbers that are not finite")
        digest.update(np.ascontiguousarray(array).data)
    convert()
    return digest.hexdigest()


def _arrays(model: onnx.ModelProto) -> Mapping[str, Any]:
    return {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
