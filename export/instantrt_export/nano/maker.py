"""Writes the nano checkpoint in exactly the layout that people have InstantID in."""

from __future__ import annotations

import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from instantrt.errors import CheckpointError
from instantrt_export.nano import networks
from instantrt_export.nano.tokenizer import END, write_tokenizer

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


def make_nano(out: Path, seed: int = 0) -> Path:
    """Writes a combined folder of all parts, float32, about 47 MB; the same bytes for the same seed.

    The diffusion weights are seeded random numbers, so the pictures mean nothing, but every input matters to them. The
    face networks are real.

    Args:
        out: a folder that is new or empty.
        seed: of the random weights, 0 to 2**31 - 1.

    Returns:
        ``out``.

    Raises:
        CheckpointError: ``out`` holds something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} is in use", hint="name a new or an empty folder")
    if not 0 <= seed < 2**31:
        raise CheckpointError(f"The seed must lie in 0..{2**31 - 1}", found=str(seed))
    out.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):  # constructors draw weights that are then replaced
        _write_diffusion(out, seed)
        _write_text(out, seed)
    _write_json(out / "model_index.json", MODEL_INDEX)
    (out / "scheduler").mkdir()
    _write_json(out / "scheduler" / "scheduler_config.json", SCHEDULER)
    _copy_faces(out / "faces")
    return out


def _write_diffusion(out: Path, seed: int) -> None:
    unet = networks.unet(seed)
    _save(unet, out / "unet")
    _save(networks.identitynet(seed), out / "ControlNetModel")
    _save(networks.vae(seed), out / "vae")
    save_file(networks.adapter_weights(seed, unet), out / "ip-adapter.safetensors", metadata={"format": "pt"})


def _write_text(out: Path, seed: int) -> None:
    vocabulary = write_tokenizer(out / "tokenizer", padding=END)
    write_tokenizer(out / "tokenizer_2", padding="!")
    _save_text_encoder(networks.text_encoder(seed, vocabulary), out / "text_encoder")
    _save_text_encoder(networks.text_encoder_2(seed, vocabulary), out / "text_encoder_2")


def _save(model: Any, folder: Path) -> None:
    model.save_pretrained(folder, safe_serialization=True)


def _save_text_encoder(model: nn.Module, folder: Path) -> None:
    """Under the names that published checkpoints have: ``text_model.*``, which every version of transformers reads."""
    config: Any = model.config
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
    bare = {name.removeprefix("text_model."): tensor for name, tensor in model.state_dict().items()}
    names = {name: name if name.startswith("text_projection.") else f"text_model.{name}" for name in bare}
    weights = {names[name]: tensor for name, tensor in bare.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _copy_faces(folder: Path) -> None:
    """The face networks of the package: ONNX files, and beside them their licence and origin."""
    folder.mkdir()
    for file in resources.files(__package__).joinpath("faces").iterdir():
        if file.is_file():
            with resources.as_file(file) as path:
                shutil.copyfile(path, folder / path.name)


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
