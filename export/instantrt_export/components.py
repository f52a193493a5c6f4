"""The five torch networks of a checkpoint: opened by config and header, checked, and loaded when asked for."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from instantrt.errors import CheckpointError
from instantrt_export.weights import Shape, WeightFiles, find_weights, read_json

CLASSES: dict[str, Any] = {
    "unet": UNet2DConditionModel,
    "identitynet": ControlNetModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
}
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
CLIP_TYPES = ("clip_text_model", "clip")
# Attention of VAEs saved before diffusers 0.15; diffusers renames it while loading.
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


@dataclass(frozen=True)
class Component:
    """One torch network on disk. ``skeleton`` is the module on the meta device: structure and shapes, no weights."""

    name: str
    folder: Path
    files: WeightFiles
    skeleton: nn.Module

    @property
    def config(self) -> Any:
        """The library's config object, defaults filled in."""
        return self.skeleton.config

    @property
    def file_config(self) -> dict[str, Any]:
        """``config.json`` as it is."""
        return read_json(self.folder / "config.json")

    @classmethod
    def open(cls, name: str, folder: Path) -> Component:
        """Reads config and headers, no weights.

        Raises:
            CheckpointError: a file is missing or unreadable, or the config describes something else.
        """
        config_path = folder / "config.json"
        _check_class(name, config_path)
        return cls(name, folder, find_weights(folder, _stem(name)), _skeleton(name, config_path))

    def problems(self) -> list[str]:
        """Every weight that is missing, unexpected or misshapen, one sentence each."""
        shapes = {_canonical(self.name, n): s for n, s in self.files.shapes.items()}
        wanted = {_canonical(self.name, n): tuple(t.shape) for n, t in self.skeleton.state_dict().items()}
        if self.name in _TEXT_ENCODERS:  # a buffer that older versions of transformers saved
            shapes = {n: s for n, s in shapes.items() if not n.endswith("position_ids")}
            wanted = {n: s for n, s in wanted.items() if not n.endswith("position_ids")}
        return compare_shapes(self.files.path, shapes, wanted)

    def load(self, dtype: torch.dtype) -> nn.Module:
        """The network with its weights, on the CPU, in eval mode."""
        with _no_progress_bars(), self._usual_folder() as (folder, variant):
            options = {"local_files_only": True, "use_safetensors": True, "variant": variant}
            if self.name in _TEXT_ENCODERS:  # the option for the dtype has another name in every version
                module: nn.Module = CLASSES[self.name].from_pretrained(folder, **options).to(dtype)
            else:
                module = CLASSES[self.name].from_pretrained(folder, torch_dtype=dtype, **options)
        return module.eval().requires_grad_(False)

    @contextmanager
    def _usual_folder(self) -> Iterator[tuple[Path, str | None]]:
        """A folder in which the libraries find the weights: its own, or one of links with names that they know."""
        if self.files.usual:
            yield self.folder, self.files.variant
            return
        with tempfile.TemporaryDirectory() as name:
            folder, stem = Path(name), _stem(self.name)
            links = {}
            for number, file in enumerate(sorted(set(self.files.files.values()))):
                links[file] = f"{stem}-{number:05}.safetensors"
                (folder / links[file]).symlink_to(file.absolute())
            weight_map = {tensor: links[file] for tensor, file in self.files.files.items()}
            index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
            (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
            (folder / "config.json").symlink_to((self.folder / "config.json").absolute())
            yield folder, None


def compare_shapes(path: Path, shapes: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> list[str]:
    """Every difference between the weights in a file and those needed, one sentence each."""
    missing = [f"{path}: missing {n} {list(s)}" for n, s in wanted.items() if n not in shapes]
    unexpected = [f"{path}: unexpected {n} {list(s)}" for n, s in shapes.items() if n not in wanted]
    misshapen = [
        f"{path}: {n} is {list(shapes[n])}, needed {list(s)}"
        for n, s in wanted.items()
        if n in shapes and tuple(shapes[n]) != tuple(s)
    ]
    return missing + unexpected + misshapen


def _stem(name: str) -> str:
    return "model" if name in _TEXT_ENCODERS else "diffusion_pytorch_model"


def _check_class(name: str, config_path: Path) -> None:
    """diffusers names a class, transformers architectures and a type: what is named must be what is needed."""
    config = read_json(config_path)
    needed = CLASSES[name].__name__
    named = [config["_class_name"]] if "_class_name" in config else config.get("architectures") or [needed]
    kind = config.get("model_type", CLIP_TYPES[0])
    if needed not in named or (name in _TEXT_ENCODERS and kind not in CLIP_TYPES):
        found = ", ".join(map(str, named)) + (f" of type {kind}" if name in _TEXT_ENCODERS else "")
        raise CheckpointError(f"{config_path} describes no {needed}", found=found, hint="use the part of an SDXL")
    if config.get("encoder_hid_dim_type") is not None:
        raise CheckpointError(
            f"{config_path} is of a UNet that was saved with another adapter in it",
            found=f"encoder_hid_dim_type {config['encoder_hid_dim_type']}",
            hint="use the UNet as it was before: `pipeline.unload_ip_adapter()`, then `save_pretrained` again; "
            "InstantID's own adapter is a file beside it",
        )


def _skeleton(name: str, config_path: Path) -> nn.Module:
    cls = CLASSES[name]
    try:
        with torch.device("meta"):
            if name in _TEXT_ENCODERS:
                module = cls(cls.config_class.from_pretrained(config_path.parent))
            else:
                module = cls.from_config(cls.load_config(config_path))
    # A config can make a constructor fail in any way; all of them mean the same to the user.
    except Exception as error:
        what, hint = f"{config_path}: no {cls.__name__} can be built from it", "download the file again"
        raise CheckpointError(what, found=str(error), hint=hint) from error
    skeleton: nn.Module = module
    return skeleton


def _canonical(name: str, weight: str) -> str:
    """A weight's name whichever version of the libraries saved it."""
    if name in _TEXT_ENCODERS:
        return weight.removeprefix("text_model.")
    if name == "vae":
        for old, new in _OLD_ATTENTION.items():
            weight = weight.replace(old, new)
    return weight


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """The libraries draw bars even into pipes; the commands show their own progress."""
    loggings = (diffusers.utils.logging, transformers.utils.logging)
    shown = [logging for logging in loggings if logging.is_progress_bar_enabled()]
    for logging in shown:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging in shown:
            logging.enable_progress_bar()
