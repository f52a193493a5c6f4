"""Checkpoints gone wrong: files of nano rewritten, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from instantrt.errors import CheckpointError
from instantrt_export.checkpoint import Checkpoint

UNET = "unet/diffusion_pytorch_model.safetensors"
IDENTITYNET = "ControlNetModel/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
TEXT_2 = "text_encoder_2/model.safetensors"
ADAPTER = "ip-adapter.safetensors"


def rewrite_weights(path: Path, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    weights = edit(load_file(path))
    path.unlink()
    save_file({n: t.contiguous() for n, t in weights.items()}, path, metadata={"format": "pt"})


def rewrite_config(path: Path, **changes) -> None:
    config = {**json.loads(path.read_text()), **changes}
    path.unlink()
    path.write_text(json.dumps(config))


def replace_file(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def refusal(location: Path, **options) -> str:
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(location, **options)
    return str(caught.value)
