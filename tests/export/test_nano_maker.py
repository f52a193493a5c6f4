"""The nano checkpoint: that it loads everywhere, is the same every time, and that everything in it matters."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionXLPipeline
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from instantrt.errors import CheckpointError
from instantrt_nano import __main__ as command
from instantrt_nano.maker import make_nano
from instantrt_nano.tokenizer import END, START, TOKENS, learn_merges

WEIGHTS = [
    "unet/diffusion_pytorch_model.safetensors",
    "ControlNetModel/diffusion_pytorch_model.safetensors",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/model.safetensors",
    "text_encoder_2/model.safetensors",
    "ip-adapter.safetensors",
]


@pytest.fixture(scope="module")
def pipeline(nano_checkpoint):
    """Plain diffusers, with no code of ours."""
    return StableDiffusionXLPipeline.from_pretrained(nano_checkpoint, local_files_only=True)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_plain_diffusers_draws_a_picture_with_it(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(torch.initial_seed())
    image = pipeline("watercolor portrait", num_inference_steps=3, height=128, width=128, generator=generator).images[0]
    low, high = image.convert("L").getextrema()
    assert image.size == (128, 128)
    assert high - low > 100


def test_the_same_seed_gives_the_same_bytes_whatever_torch_drew_before(nano_checkpoint, tmp_path):
    torch.randn(7)
    state = torch.random.get_rng_state()
    again = make_nano(tmp_path / "again")
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's generator is left alone"
    assert files_of(again) == files_of(nano_checkpoint)


def test_another_seed_changes_every_file_of_weights(nano_checkpoint, tmp_path):
    other = make_nano(tmp_path / "other", seed=1)
    for name in WEIGHTS:
        assert (other / name).read_bytes() != (nano_checkpoint / name).read_bytes(), name


@pytest.mark.parametrize("name", WEIGHTS)
def test_no_weight_is_zero_or_constant(name, nano_checkpoint):
    for key, tensor in load_file(nano_checkpoint / name).items():
        assert tensor.dtype == torch.float32, key
        assert tensor.isfinite().all(), key
        assert tensor.std() > 1e-3, key


def test_random_latents_decode_to_pictures_within_range(pipeline):
    latents = torch.randn(4, 4, 16, 16) / pipeline.vae.config.scaling_factor
    with torch.no_grad():
        pictures = pipeline.vae.decode(latents).sample
    assert 0.2 < pictures.std() < 0.7
    assert (pictures.abs() > 1).float().mean() < 0.1


def test_every_input_of_the_networks_matters(nano_checkpoint, pipeline):
    identitynet = ControlNetModel.from_pretrained(nano_checkpoint / "ControlNetModel", local_files_only=True).eval()
    inputs = {
        "latents": torch.randn(1, 4, 16, 16),
        "timestep": torch.tensor([700.0]),
        "face_tokens": torch.randn(1, 16, 128),
        "text_tokens": torch.randn(1, 77, 128),
        "picture": torch.rand(1, 3, 128, 128),
        "pooled": torch.randn(1, 64),
        "time_ids": torch.tensor([[128.0, 128, 0, 0, 128, 128]]),
        "strength": torch.tensor(0.8),
    }
    others = {name: torch.randn_like(x) for name, x in inputs.items()}
    others |= {"timestep": torch.tensor([100.0]), "picture": torch.rand(1, 3, 128, 128)}
    others |= {"time_ids": torch.tensor([[256.0, 128, 0, 64, 128, 256]]), "strength": torch.tensor(0.0)}

    @torch.no_grad()
    def predict(latents, timestep, face_tokens, text_tokens, picture, pooled, time_ids, strength):
        added = {"text_embeds": pooled, "time_ids": time_ids}
        down, mid = identitynet(
            latents,
            timestep,
            encoder_hidden_states=face_tokens,
            controlnet_cond=picture,
            conditioning_scale=strength,
            added_cond_kwargs=added,
            return_dict=False,
        )
        return pipeline.unet(
            latents,
            timestep,
            encoder_hidden_states=text_tokens,
            added_cond_kwargs=added,
            down_block_additional_residuals=down,
            mid_block_additional_residual=mid,
        ).sample

    base = predict(**inputs)
    assert 0.3 < base.std() < 3
    for name, other in others.items():
        change = (predict(**{**inputs, name: other}) - base).norm() / base.norm()
        assert change > 1e-2, f"{name} changes the prediction by {change:.1e} only"


def test_both_text_encoders_tell_prompts_apart(pipeline):
    def encode(prompt):
        embeds, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
        return embeds[..., :64], embeds[..., 64:], pooled

    for a, b in zip(encode("line art portrait"), encode("neon lights"), strict=True):
        assert (a - b).norm() / a.norm() > 0.1


@pytest.mark.parametrize(("folder", "padding"), [("tokenizer", END), ("tokenizer_2", "!")])
def test_tokenizers_pad_as_those_of_sdxl(folder, padding, nano_checkpoint):
    tokenizer = CLIPTokenizer.from_pretrained(nano_checkpoint / folder)
    ids = tokenizer("film noir portrait", padding="max_length").input_ids
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens == [START, "film</w>", "noir</w>", "portrait</w>", END] + [padding] * (TOKENS - 5)
    assert len(tokenizer) == 700


@settings(deadline=None, max_examples=50)
@given(text=st.text(max_size=60))
def test_any_text_is_encoded_alike_by_both_libraries(text, nano_checkpoint):
    for folder in ("tokenizer", "tokenizer_2"):
        lean = Tokenizer.from_file(str(nano_checkpoint / folder / "tokenizer.json"))
        ids = lean.encode(text).ids
        assert ids == CLIPTokenizer.from_pretrained(nano_checkpoint / folder)(text).input_ids


def test_unknown_text_falls_apart_into_bytes_without_loss(nano_checkpoint):
    tokenizer = CLIPTokenizer.from_pretrained(nano_checkpoint / "tokenizer")
    text = "xylophone żółw 象 42"
    ids = tokenizer(text).input_ids
    assert tokenizer.eos_token_id not in ids[1:-1]
    assert tokenizer.decode(ids[1:-1]).replace(" ", "") == text.replace(" ", "")


def test_merges_are_those_of_the_published_algorithm():
    # By hand: l+o occurs three times, then lo+w</w> twice; then every pair of lo-w-e-r</w> once, so spelling decides.
    merges = [("l", "o"), ("lo", "w</w>"), ("e", "r</w>"), ("lo", "w"), ("low", "er</w>")]
    assert learn_merges("low low lower") == merges
    assert learn_merges("low low lower", limit=2) == merges[:2]


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="in use"):
        make_nano(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["note.txt"]


def test_a_seed_out_of_range_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="seed"):
        make_nano(tmp_path / "x", seed=-1)
    assert not (tmp_path / "x").exists()


def test_command_line_writes_the_checkpoint_and_reports_mistakes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["nano", str(tmp_path / "made")])
    assert command.main() == 0
    assert capsys.readouterr().out == f"{tmp_path / 'made'}\n"
    assert command.main() == 1
    assert "in use" in capsys.readouterr().err
