"""What would make a bundle unusable is found when the checkpoint is opened, and not after the export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from diffusers import AutoencoderKL

from doubles.checkpoints import VAE, refusal, replace_file, rewrite_config, rewrite_weights
from instantrt.errors import CheckpointError
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.supported import SUPPORTED

SCHEDULER = "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
        ({"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_data": 0.5}, "EDMDPMSolverMultistepScheduler"),
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ({"prediction_type": "sample"}, "prediction_type='sample'"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule='sigmoid'"),
        ({"timestep_spacing": "karras"}, "timestep_spacing='karras'"),
        ({"use_beta_sigmas": True}, "use_beta_sigmas=True"),
        ({"invented_option": 3}, "invented_option=3"),
        ({"beta_end": 2.0}, "variances below 1"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas must have num_train_timesteps entries"),
        ({"num_train_timesteps": "many"}, "num_train_timesteps='many'"),
    ],
)
def test_a_scheduler_that_the_usual_sampler_cannot_follow_is_refused(folder: Path, changes: dict, said: str) -> None:
    rewrite_config(folder / SCHEDULER, **changes)
    message = refusal(folder)
    assert str(folder / SCHEDULER) in message
    assert said in message


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": "DDIMScheduler", "clip_sample": True, "rescale_betas_zero_snr": True},
        {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
    ],
)
def test_options_that_the_usual_sampler_does_not_read_are_no_hindrance(folder: Path, changes: dict) -> None:
    rewrite_config(folder / SCHEDULER, **changes)
    assert Checkpoint.open(folder).scheduler_config["_class_name"] == changes["_class_name"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "is no readable JSON file"),
        (b"[]", "holds no JSON object"),
        (b'{"version": "1.0"}', "holds no tokenizer that can be loaded"),
        (b'{"version": "1.0", "model": {"type": "Quantum"}}', "holds no tokenizer that can be loaded"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 524619\n", "Git LFS pointer"),
    ],
)
@pytest.mark.parametrize("tokenizer", ["tokenizer", "tokenizer_2"])
def test_a_broken_tokenizer_is_refused(folder: Path, tokenizer: str, content: bytes, said: str) -> None:
    replace_file(folder / tokenizer / "tokenizer.json", content)
    message = refusal(folder)
    assert f"{folder / tokenizer}" in message
    assert said in message
    assert "2 problems" not in message


def test_a_broken_vocabulary_is_refused(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()
    replace_file(folder / "tokenizer" / "vocab.json", b'{"a": ')
    assert "vocab.json is no readable JSON file" in refusal(folder)


def test_a_vocabulary_of_other_things_than_numbers_is_no_traceback(folder: Path) -> None:
    replace_file(folder / "tokenizer" / "vocab.json", b'{"a": "b", "c": 1, "d": null}')
    Checkpoint.open(folder)  # what is used is tokenizer.json


def test_tokens_beyond_the_text_encoders_table_are_refused(folder: Path) -> None:
    """As of a textual inversion that was saved with the tokenizer alone."""
    path = folder / "tokenizer" / "tokenizer.json"
    data = json.loads(path.read_text())
    added = {**data["added_tokens"][0], "id": 700, "content": "<my-cat>"}
    replace_file(path, json.dumps({**data, "added_tokens": [*data["added_tokens"], added]}).encode())
    assert f"{folder / 'tokenizer'} has ids up to 700, {folder / 'text_encoder/config.json'} has 700" in refusal(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "t5", "architectures": ["T5EncoderModel"]}, "T5EncoderModel of type t5"),
        ({"model_type": "chatglm"}, "of type chatglm"),
        ({"architectures": ["CLIPVisionModelWithProjection"]}, "CLIPVisionModelWithProjection"),
        ({"hidden_act": "jelu"}, "no CLIPTextModel can be built"),
    ],
)
def test_text_encoders_of_another_kind_are_refused(folder: Path, changes: dict, said: str) -> None:
    rewrite_config(folder / "text_encoder" / "config.json", **changes)
    message = refusal(folder)
    assert str(folder / "text_encoder" / "config.json") in message
    assert said in message


@pytest.mark.parametrize(
    ("part", "option", "value"),
    [
        ("unet", "class_embed_type", "timestep"),
        ("unet", "center_input_sample", True),
        ("unet", "dual_cross_attention", True),
        ("unet", "attention_type", "gated"),
        ("unet", "resnet_time_scale_shift", "scale_shift"),
        ("ControlNetModel", "controlnet_conditioning_channel_order", "bgr"),
        ("ControlNetModel", "conditioning_channels", 4),
        ("ControlNetModel", "global_pool_conditions", True),
    ],
)
def test_options_that_the_export_does_not_know_are_named_with_their_value(
    folder: Path, part: str, option: str, value: object
) -> None:
    rewrite_config(folder / part / "config.json", **{option: value})
    message = refusal(folder)
    assert option in message or "can be built" in message
    assert str(folder / part / "config.json") in message


def test_every_option_in_the_table_is_one_of_its_network(folder: Path) -> None:
    components = Checkpoint.open(folder).components
    assert SUPPORTED.keys() == components.keys()
    for name, options in SUPPORTED.items():
        assert all(hasattr(components[name].config, option) for option in options)


def test_a_vae_of_other_channels_than_rgb_is_refused(folder: Path) -> None:
    rewrite_config(folder / "vae" / "config.json", out_channels=4)
    shapes = AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")).state_dict()
    rewrite_weights(folder / VAE, lambda weights: {n: shapes[n] for n in weights})
    message = refusal(folder)
    assert f"{folder / 'vae/config.json'}: out_channels is 4, needed 3" in message
    assert "1 problem" in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scaling_factor": None}, "scaling_factor is None, needed a number"),
        ({"scaling_factor": 0.0}, "scaling_factor is 0.0, needed a number"),
        ({"scaling_factor": float("nan")}, "scaling_factor is nan, needed a number"),
        ({"latents_mean": [0.0] * 3, "latents_std": [1.0] * 4}, "latents_mean has 3 numbers, needed 4"),
    ],
)
def test_a_vae_whose_latents_cannot_be_scaled_is_refused(folder: Path, changes: dict, said: str) -> None:
    rewrite_config(folder / "vae" / "config.json", **changes)
    assert f"{folder / 'vae/config.json'}: {said}" in refusal(folder)


def test_an_inpainting_unet_is_refused(folder: Path) -> None:
    rewrite_config(folder / "unet" / "config.json", in_channels=9)
    message = refusal(folder)
    assert f"latent channels: {folder / 'unet/config.json'} has 9, {folder / 'vae/config.json'} has 4" in message


def test_a_unet_saved_with_an_ip_adapter_in_it_is_told_with_what_to_do(folder: Path) -> None:
    rewrite_config(folder / "unet" / "config.json", encoder_hid_dim_type="ip_image_proj")
    message = refusal(folder)
    assert "was saved with another adapter in it" in message
    assert "ip_image_proj" in message
    assert "unload_ip_adapter()" in message


def test_a_broken_model_index_is_found_at_once(folder: Path) -> None:
    replace_file(folder / "model_index.json", b"<html>")
    message = refusal(folder)
    assert "model_index.json is no readable JSON file" in message
    assert "web page" in message


def test_all_of_it_is_told_at_once(folder: Path) -> None:
    rewrite_config(folder / SCHEDULER, _class_name="EDMEulerScheduler")
    replace_file(folder / "tokenizer" / "tokenizer.json", b"{")
    rewrite_config(folder / "unet" / "config.json", encoder_hid_dim_type="ip_image_proj")
    message = refusal(folder)
    assert "3 problems" in message
    with pytest.raises(CheckpointError):
        Checkpoint.open(folder)
