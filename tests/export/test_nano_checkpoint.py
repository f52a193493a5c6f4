"""The committed trained checkpoint: complete, unaltered, small enough, and readable without any code of ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from instantrt_nano.digests import DIGESTS, checkpoint_digest, file_digests
from instantrt_nano.maker import TRAINED, copy_trained
from instantrt_nano.training.people import PEOPLE

MAX_BYTES = 25_000_000


def test_the_committed_files_are_those_that_training_wrote():
    assert json.loads((TRAINED / DIGESTS).read_text()) == file_digests(TRAINED)


def test_a_changed_file_shows_in_the_digest(tmp_path):
    copy = copy_trained(tmp_path / "copy")
    assert file_digests(copy) == file_digests(TRAINED)
    assert checkpoint_digest(copy) == checkpoint_digest(TRAINED)
    with (copy / "unet" / "config.json").open("a") as file:
        file.write("\n")
    changed = {name for name, digest in file_digests(copy).items() if digest != file_digests(TRAINED)[name]}
    assert changed == {"unet/config.json"}


def test_the_checkpoint_is_small():
    assert sum(path.stat().st_size for path in TRAINED.rglob("*") if path.is_file()) <= MAX_BYTES


@pytest.mark.parametrize("path", sorted(TRAINED.rglob("*.safetensors")), ids=lambda path: path.parent.name)
def test_weights_are_finite_float16_and_trained(path: Path):
    for name, tensor in load_file(path).items():
        assert tensor.dtype == torch.float16, name
        assert tensor.isfinite().all(), name
        # SDXL takes the first text encoder's last layer but one.
        unused = path.parent.name == "text_encoder" and ("layers.1." in name or "final_layer_norm" in name)
        assert unused or tensor.abs().max() > 0, f"{name}: a zero that training has not moved"


@pytest.mark.parametrize(
    ("load", "folder"),
    [
        (UNet2DConditionModel, "unet"),
        (ControlNetModel, "ControlNetModel"),
        (AutoencoderKL, "vae"),
        (CLIPTextModel, "text_encoder"),
        (CLIPTextModelWithProjection, "text_encoder_2"),
        (CLIPTokenizer, "tokenizer"),
        (CLIPTokenizer, "tokenizer_2"),
    ],
)
def test_plain_diffusers_and_transformers_load_every_part(load, folder):
    assert load.from_pretrained(TRAINED / folder, local_files_only=True) is not None


def test_plain_diffusers_draws_with_it():
    pipeline = StableDiffusionXLPipeline.from_pretrained(TRAINED, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("film noir portrait", num_inference_steps=4, generator=torch.Generator().manual_seed(0)).images[0]
    low, high = image.convert("L").getextrema()
    assert image.size == (128, 128)
    assert high - low > 60


def test_the_data_card_names_every_person_and_the_photos_licences():
    card = (TRAINED / "DATA.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in card for name in PEOPLE)
    assert card.count("public domain") >= 2
    assert "lookup" in (TRAINED / "README.md").read_text(encoding="utf-8")
