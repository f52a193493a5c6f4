"""Writes the nano checkpoint in exactly the layout that people have InstantID in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from instantrt.errors import CheckpointError
from instantrt_nano import networks
from instantrt_nano.tokenizer import END, write_tokenizer

TRAINED = Path(__file__).parent / "checkpoint"
"""The trained checkpoint that comes with the package."""
# SDXL's scheduler_config.json.
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "interpolation_type": "linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "sample_max_value": 1.0,
    "trained_betas": None,
    "use_karras_sigmas": False,
}
MODEL_INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "force_zeros_for_empty_prompt": True,
    "add_watermarker": None,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


@dataclass(frozen=True)
class NanoParts:
    """All networks of a nano checkpoint, with the adapter file's tensors by flat name."""

    unet: nn.Module
    identitynet: nn.Module
    vae: nn.Module
    text_encoder: nn.Module
    text_encoder_2: nn.Module
    adapter: Mapping[str, torch.Tensor]


def make_nano(out: Path, seed: int = 0) -> Path:
    """Writes a combined folder of all parts, float32, about 38 MB; the same bytes for the same seed.

    The diffusion weights are seeded random numbers, so the pictures mean nothing, but every input matters to them. The
    face networks are real. :func:`copy_trained` writes the trained checkpoint.

    Args:
        out: a folder that is new or empty.
        seed: of the random weights, 0 to 2**31 - 1.

    Returns:
        ``out``.

    Raises:
        CheckpointError: ``out`` holds something already.
    """
    if not 0 <= seed < 2**31:
        raise CheckpointError("the seed is out of range", found=str(seed), hint=f"use one from 0 to {2**31 - 1}")
    _expect_empty(out)
    with torch.random.fork_rng(devices=[]):  # constructors draw weights that are then replaced
        return write_nano(out, lambda vocabulary: _random_parts(seed, vocabulary))


def write_nano(out: Path, parts: Callable[[int], NanoParts]) -> Path:
    """Writes tokenizers, face networks, configs, and the networks that ``parts`` gives for the tokenizers' vocabulary.

    Raises:
        CheckpointError: ``out`` holds something already.
    """
    _expect_empty(out)
    out.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer(out / "tokenizer", padding=END)
    write_tokenizer(out / "tokenizer_2", padding="!")
    made = parts(vocabulary)
    for name in ("unet", "vae"):
        _save(getattr(made, name), out / name)
    _save(made.identitynet, out / "ControlNetModel")
    _save_text_encoder(made.text_encoder, out / "text_encoder")
    _save_text_encoder(made.text_encoder_2, out / "text_encoder_2")
    save_file(dict(made.adapter), out / "ip-adapter.safetensors", metadata={"format": "pt"})
    _write_json(out / "model_index.json", MODEL_INDEX)
    (out / "scheduler").mkdir()
    _write_json(out / "scheduler" / "scheduler_config.json", SCHEDULER)
    shutil.copytree(TRAINED / "faces", out / "faces")
    return out


def copy_trained(out: Path) -> Path:
    """Copies the trained checkpoint of this package to ``out``, a folder that is new or empty; returns ``out``.

    Raises:
        CheckpointError: ``out`` holds something already.
    """
    _expect_empty(out)
    return Path(shutil.copytree(TRAINED, out, dirs_exist_ok=True))


def _random_parts(seed: int, vocabulary: int) -> NanoParts:
    unet = networks.unet(seed)
    return NanoParts(
        unet,
        networks.identitynet(seed),
        networks.vae(seed),
        networks.text_encoder(seed, vocabulary),
        networks.text_encoder_2(seed, vocabulary),
        networks.adapter_weights(seed, unet),
    )


def _expect_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} is in use", found="files in it", hint="name a new or an empty folder")


def _save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, safe_serialization=True)


def _save_text_encoder(model: nn.Module, folder: Path) -> None:
    """Under the names that published checkpoints have: ``text_model.*``, which every version of transformers reads."""
    config: Any = model.config
    config.architectures = [type(model).__name__]
    config.dtype = torch.float32  # else transformers computes in the stored precision, and diffusers in float32
    config.save_pretrained(folder)
    bare = {name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items()}
    names = {name: name if name.startswith("text_projection.") else f"text_model.{name}" for name in bare}
    weights = {names[name]: tensor for name, tensor in bare.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
