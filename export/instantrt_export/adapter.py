"""The adapter file of InstantID: ``image_proj`` (the Resampler) and ``ip_adapter`` (face attention weights)."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from instantrt.errors import CheckpointError
from instantrt_export.file_kinds import SAFETENSORS, TORCH, file_kind
from instantrt_export.modules.resampler import HEAD_WIDTH, Resampler, ResamplerShape
from instantrt_export.weights import Shape, read_shapes, read_tensors, unreadable

IMAGE_PROJECTION = "image_proj."
FACE_ATTENTION = "ip_adapter."
_SECTIONS = (IMAGE_PROJECTION, FACE_ATTENTION)


@dataclass(frozen=True)
class FaceAttentionSite:
    """One cross-attention of the UNet, where face attention belongs."""

    index: int  # among all attention processors of the UNet, self-attention included
    processor: str  # the processor's name in the UNet
    key_shape: Shape  # of to_k_ip.weight: [the attention's width, cross-attention width]
    value_shape: Shape
    stride: int  # 16 stands for H/16 x W/16

    @property
    def key_name(self) -> str:
        """Where the adapter file keeps the key projection."""
        return f"{FACE_ATTENTION}{self.index}.to_k_ip.weight"

    @property
    def value_name(self) -> str:
        """Where the adapter file keeps the value projection."""
        return f"{FACE_ATTENTION}{self.index}.to_v_ip.weight"


@dataclass(frozen=True)
class AdapterFile:
    """An adapter on disk: a safetensors file with flat keys or a ``torch.save`` of two nested dictionaries."""

    path: Path
    shapes: Mapping[str, Shape]  # flat names: image_proj.latents, ip_adapter.1.to_k_ip.weight, ...

    @classmethod
    def open(cls, path: Path) -> AdapterFile:
        """Reads names and shapes, no weights. What a file is, is told by its content and not by its name.

        Raises:
            CheckpointError: the file is missing, truncated, or holds Python objects other than tensors.
        """
        if _is_safetensors(path):
            return cls(path, read_shapes(path))
        return cls(path, {name: tuple(t.shape) for name, t in _read_pickle(path, "meta").items()})

    def read(self, section: str, dtype: torch.dtype) -> dict[str, Tensor]:
        """The tensors whose names start with ``section``, keyed by the rest of the name."""
        named = ((name, tensor) for name, _, tensor in self.tensors(section))
        return {name.removeprefix(section): tensor.to(dtype) for name, tensor in named}

    def tensors(self, section: str = "") -> Iterator[tuple[str, Path, Tensor]]:
        """Every tensor whose name starts with ``section``, with its name and file, in the order of names."""
        names = [name for name in self.shapes if name.startswith(section)]
        if _is_safetensors(self.path):
            return read_tensors(dict.fromkeys(names, self.path))
        tensors = _read_pickle(self.path, "cpu")
        return ((name, self.path, tensors[name]) for name in sorted(names))


def infer_resampler_shape(shapes: Mapping[str, Shape]) -> ResamplerShape:
    """The Resampler's sizes, read off the shapes of the adapter's ``image_proj.*`` weights.

    Raises:
        CheckpointError: the weights are another kind of image projection, or the first attention has no heads of 64.
    """
    p = IMAGE_PROJECTION
    telling = [f"{p}{n}" for n in ("latents", "proj_in.weight", "proj_out.weight")]
    telling += [f"{p}layers.0.0.to_q.weight", f"{p}layers.0.1.1.weight"]
    ranks = (3, 2, 2, 2, 2)
    absent = [n for n, rank in zip(telling, ranks, strict=True) if len(shapes.get(n, ())) != rank]
    if absent:
        there = [n for n in shapes if n.startswith(p)]
        raise CheckpointError(
            f"No Resampler in the adapter: missing or misshapen {', '.join(absent)}",
            found=f"{len(there)} weights {p}*" + (f", such as {there[0]}" if there else ""),
            hint="give InstantID's ip-adapter.bin",
        )
    latents, proj_in, proj_out, to_q, ff_in = (shapes[n] for n in telling)
    heads, rest = divmod(to_q[0], HEAD_WIDTH)
    if rest or not heads:
        what, hint = f"The Resampler's attention has no heads of {HEAD_WIDTH}", "give InstantID's ip-adapter.bin"
        raise CheckpointError(what, found=f"{telling[3]} {to_q}", hint=hint)
    layers = {int(n.split(".")[2]) for n in shapes if n.startswith(f"{p}layers.") and n.split(".")[2].isdecimal()}
    return ResamplerShape(
        width=proj_in[0],
        depth=max(layers) + 1,
        heads=heads,
        queries=latents[1],
        input_width=proj_in[1],
        output_width=proj_out[0],
        ff_width=ff_in[0],
    )


def resampler_shapes(shape: ResamplerShape) -> dict[str, Shape]:
    """Every weight of such a Resampler by its name in the adapter file."""
    with torch.device("meta"):
        module = Resampler(shape)
    return {f"{IMAGE_PROJECTION}{name}": tuple(t.shape) for name, t in module.state_dict().items()}


def face_attention_shapes(sites: Sequence[FaceAttentionSite]) -> dict[str, Shape]:
    """Every weight of the face attention at these sites by its name in the adapter file."""
    keys = {site.key_name: site.key_shape for site in sites}
    return keys | {site.value_name: site.value_shape for site in sites}


def _is_safetensors(path: Path) -> bool:
    try:
        kind = file_kind(path)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read", found=error.strerror, hint="check path and permissions"
        ) from error
    return kind is SAFETENSORS or (kind is None and path.suffix == ".safetensors")


def _read_pickle(path: Path, device: str) -> dict[str, Tensor]:
    """The tensors of a ``torch.save`` file under flat names; on the meta device without their data."""
    if file_kind(path) not in (TORCH, None):
        raise unreadable(path, "tensor", ValueError())
    try:
        # Mapped, a 1.7 GB file costs memory only for what is used. The old (non-zip) format cannot be mapped.
        mapped = device == "cpu" and zipfile.is_zipfile(path) and path.suffix != ".safetensors"
        with path.open("rb") as file:  # by its name torch would take a pickle called .safetensors for one of these
            data = torch.load(path if mapped else file, map_location=device, weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _unpicklable(path, str(error)) from error
    return _flatten(path, data)


def _unpicklable(path: Path, reason: str) -> CheckpointError:
    """In our words: torch's end in advice to load the file without looking what is in it."""
    wanted = re.search(r"GLOBAL (\S+)", reason)
    if wanted is None and "nsupported" not in reason:
        return CheckpointError(
            f"{path} cannot be read as a file of tensors", found="it is damaged or incomplete", hint="download it again"
        )
    return CheckpointError(
        f"{path} cannot be read as a file of tensors",
        found=f"it asks for {wanted[1]}" if wanted else "it holds Python objects that are no tensors",
        hint="use the safetensors file of the same weights: a pickle that holds more than tensors is never loaded, "
        "because that can run its author's code",
    )


def _flatten(path: Path, data: object) -> dict[str, Tensor]:
    if not isinstance(data, dict):
        hint = "give InstantID's ip-adapter.bin"
        raise CheckpointError(f"{path} holds no dictionary of weights", found=type(data).__name__, hint=hint)
    flat: dict[str, Tensor] = {}
    for name, value in data.items():
        if isinstance(value, Tensor):
            flat[str(name)] = value
        elif isinstance(value, dict) and f"{name}." in _SECTIONS and all(isinstance(t, Tensor) for t in value.values()):
            flat |= {f"{name}.{key}": t for key, t in value.items()}
        else:
            raise CheckpointError(
                f"{path}: {name!r} is neither a tensor nor one of the sections image_proj and ip_adapter",
                found=type(value).__name__,
                hint="give InstantID's ip-adapter.bin",
            )
    return flat
