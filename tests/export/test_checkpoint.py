"""Opening checkpoints: what they tell about themselves, every layout people have, and every way to get them wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModelWithProjection

from doubles.checkpoints import ADAPTER, IDENTITYNET, UNET, refusal, rewrite_config, rewrite_weights
from instantrt.contracts import ModelDims, Residual
from instantrt.errors import CheckpointError
from instantrt_export import locate as locate_module
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.dims import face_attention_sites, identitynet_residuals
from instantrt_export.faces.graphs import FACE_MODELS
from instantrt_export.modules.resampler import ResamplerShape

# ---- what a checkpoint tells


def test_dims_of_nano(nano_checkpoint):
    dims = Checkpoint.open(nano_checkpoint).dims
    at_8, at_16, at_32 = Residual(64, 8), Residual(96, 16), Residual(96, 32)
    assert dims == ModelDims(
        text_width=64,
        text_width_2=64,
        pooled_width=64,
        token_width=128,
        face_tokens=16,
        face_embedding_width=128,
        face_px=150,
        detector="tiny68",
        detector_px=FACE_MODELS["tiny_face_68.onnx"].px,
        encoder="dlib",
        unet_time_width=3 * 64 + 8 * 96,
        unet_kv_width=2 * (3 * 64 + 7 * 96),
        identitynet_time_width=64 + 4 * 96,
        identitynet_kv_width=2 * (64 + 3 * 96),
        control_channels=64,
        residuals=(at_8, at_8, Residual(64, 16), at_16, at_32, at_32),
        mid_residual=at_32,
        adapter_strides=(8, 16, 32),
    )


@torch.no_grad()
def test_dims_are_those_that_the_networks_show_when_they_run(nano_checkpoint):
    checkpoint = Checkpoint.open(nano_checkpoint)
    width, height = 64, 128
    inputs = {
        "sample": torch.randn(1, 4, height // 8, width // 8),
        "timestep": torch.tensor(5),
        "encoder_hidden_states": torch.randn(1, 16, 128),
        "added_cond_kwargs": {"text_embeds": torch.randn(1, 64), "time_ids": torch.ones(1, 6)},
        "return_dict": False,
    }
    identitynet = checkpoint.identitynet(torch.float32)
    down, mid = identitynet(**inputs, controlnet_cond=torch.rand(1, 3, height, width))
    shown = [(r.shape[1], height // r.shape[2], width // r.shape[3]) for r in (*down, mid)]
    expected = (*checkpoint.dims.residuals, checkpoint.dims.mid_residual)
    assert shown == [(r.channels, r.stride, r.stride) for r in expected]

    unet, tokens = checkpoint.unet(torch.float32), {}
    for site in checkpoint.face_attention_sites:
        attention = unet.get_submodule(site.processor.removesuffix(".processor"))
        attention.register_forward_pre_hook(lambda _, args, site=site: tokens.update({site: args[0].shape[1]}))
    unet(**inputs)
    assert tokens == {s: (height // s.stride) * (width // s.stride) for s in checkpoint.face_attention_sites}
    assert checkpoint.dims.adapter_strides == tuple(sorted({s.stride for s in tokens}))


def test_sdxl_itself_is_read_as_documented():
    blocks = {
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "layers_per_block": 2,
    }
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            **blocks,
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
        )
    sites = face_attention_sites(unet, vae_stride=8)
    assert len(sites) == 70
    assert {s.stride for s in sites} == {16, 32}
    assert [s.index for s in sites] == list(range(1, 140, 2))
    assert {s.key_shape for s in sites} == {(640, 2048), (1280, 2048)}
    residuals, mid = identitynet_residuals(SimpleNamespace(**blocks), vae_stride=8)
    assert [(r.channels, r.stride) for r in residuals] == [
        *[(320, 8)] * 3,
        (320, 16),
        *[(640, 16)] * 2,
        (640, 32),
        *[(1280, 32)] * 2,
    ]
    assert (mid.channels, mid.stride) == (1280, 32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_networks_are_loaded_with_their_weights(dtype, nano_checkpoint):
    checkpoint = Checkpoint.open(nano_checkpoint)
    loaded = {
        UNET: checkpoint.unet(dtype),
        IDENTITYNET: checkpoint.identitynet(dtype),
        "vae/diffusion_pytorch_model.safetensors": checkpoint.vae(dtype),
        "text_encoder/model.safetensors": checkpoint.text_encoder(dtype),
        "text_encoder_2/model.safetensors": checkpoint.text_encoder_2(dtype),
        ADAPTER: checkpoint.resampler(dtype),
    }
    for name, module in loaded.items():
        stored = {
            n.removeprefix("text_model.").removeprefix("image_proj."): t
            for n, t in load_file(nano_checkpoint / name).items()
            if not n.startswith("ip_adapter.")
        }
        parameters = {n.removeprefix("text_model."): p for n, p in module.named_parameters()}
        assert parameters.keys() == stored.keys()
        assert all(p.dtype == dtype and torch.equal(p, stored[n].to(dtype)) for n, p in parameters.items()), name
        assert not module.training
        assert not any(p.requires_grad for p in module.parameters())


def test_face_attention_weights_come_in_the_order_of_the_unets_processors(nano_checkpoint):
    checkpoint = Checkpoint.open(nano_checkpoint)
    stored = load_file(nano_checkpoint / ADAPTER)
    names = [n for n in checkpoint.unet(torch.float32).attn_processors if ".attn2." in n]
    weights = checkpoint.face_attention_weights()
    assert [s.processor for s in checkpoint.face_attention_sites] == names
    assert len(weights) == 10
    for i, (keys, values) in enumerate(weights):
        assert torch.equal(keys, stored[f"ip_adapter.{2 * i + 1}.to_k_ip.weight"])
        assert torch.equal(values, stored[f"ip_adapter.{2 * i + 1}.to_v_ip.weight"])


def test_the_rest_of_a_checkpoint(nano_checkpoint):
    checkpoint = Checkpoint.open(nano_checkpoint)
    assert checkpoint.resampler_shape == ResamplerShape(128, 2, 2, 16, 128, 128, 256)
    assert checkpoint.vae_config["scaling_factor"] == 0.13025
    assert checkpoint.vae_config["force_upcast"] is False
    assert checkpoint.scheduler_config["timestep_spacing"] == "leading"
    assert checkpoint.model_index["force_zeros_for_empty_prompt"] is True
    assert (checkpoint.tokenizer_dir / "merges.txt").is_file()
    assert (checkpoint.tokenizer_2_dir / "vocab.json").is_file()
    assert checkpoint.face_models.detector_kind == "tiny68"


# ---- the layouts that people have


def test_parts_may_lie_elsewhere(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("ControlNetModel", ADAPTER, "faces"):
        (folder / name).rename(elsewhere / name)
    message = refusal(folder)
    assert all(name in message for name in ("ControlNetModel", "ip-adapter.bin", "antelopev2"))
    direct = Checkpoint.open(
        folder, identitynet=elsewhere / "ControlNetModel", adapter=elsewhere / ADAPTER, faces=str(elsewhere / "faces")
    )
    around = Checkpoint.open(folder, identitynet=elsewhere, adapter=elsewhere, faces=elsewhere)
    assert direct.places == around.places
    assert around.places.adapter == elsewhere / ADAPTER


def test_a_safetensors_adapter_is_preferred_and_a_pickled_one_read(folder):
    flat = load_file(folder / ADAPTER)
    nested = {s: {n[len(s) + 1 :]: t for n, t in flat.items() if n.startswith(s)} for s in ("image_proj", "ip_adapter")}
    torch.save(nested, folder / "ip-adapter.bin")
    expected = Checkpoint.open(folder)
    assert expected.adapter.path.name == ADAPTER
    weights = expected.face_attention_weights()
    (folder / ADAPTER).unlink()
    pickled = Checkpoint.open(folder)
    assert pickled.adapter.path.name == "ip-adapter.bin"
    pairs = zip(pickled.face_attention_weights(), weights, strict=True)
    assert all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))
    assert pickled.dims == expected.dims


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_sharded_and_fp16_weights_are_found(variant, shards, folder):
    dtype = torch.float32 if variant is None else torch.float16
    for name, cls in (("unet", UNet2DConditionModel), ("text_encoder_2", CLIPTextModelWithProjection)):
        model = cls.from_pretrained(folder / name).to(dtype)
        shutil.rmtree(folder / name)
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        model.save_pretrained(folder / name, variant=variant, max_shard_size=int(size / shards * 1.1) + 1)
        assert len(list((folder / name).glob("*.safetensors"))) == shards
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.components["unet"].files.variant == variant
    for name in ("unet", "text_encoder_2"):
        loaded = getattr(checkpoint, name)(torch.float32)
        stored = {}
        for file in (folder / name).glob("*.safetensors"):
            stored |= {n.removeprefix("text_model."): t for n, t in load_file(file).items()}
        parameters = {n.removeprefix("text_model."): p for n, p in loaded.named_parameters()}
        assert parameters.keys() == stored.keys()
        assert all(torch.equal(p, stored[n].float()) for n, p in parameters.items())


def test_plain_weights_are_preferred_to_fp16(folder):
    shutil.copy(folder / UNET, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert Checkpoint.open(folder).components["unet"].files.variant is None


def test_names_of_older_libraries_are_understood(folder):
    new_to_old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old_name(name):
        for new, old in new_to_old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        return name

    expected = Checkpoint.open(folder).vae(torch.float32).state_dict()
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    rewrite_weights(path, lambda weights: {old_name(n): t for n, t in weights.items()})
    assert any(".query." in n for n in load_file(path))
    ids = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    rewrite_weights(folder / "text_encoder" / "model.safetensors", lambda weights: weights | ids)
    bare = lambda weights: {n.removeprefix("text_model."): t for n, t in weights.items()}  # noqa: E731
    rewrite_weights(folder / "text_encoder" / "model.safetensors", bare)
    checkpoint = Checkpoint.open(folder)
    loaded = checkpoint.vae(torch.float32).state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in loaded.items())
    checkpoint.text_encoder(torch.float32)


# ---- bad checkpoints


def test_missing_unexpected_and_misshapen_weights_of_all_files_are_listed_at_once(folder):
    gone = ["conv_in.weight", "mid_block.resnets.0.conv1.bias", "up_blocks.2.resnets.1.norm2.weight"]
    rewrite_weights(folder / UNET, lambda weights: {n: t for n, t in weights.items() if n not in gone})
    more = {"controlnet_down_blocks.6.weight": torch.zeros(4), "controlnet_mid_block.bias": torch.zeros(7)}
    rewrite_weights(folder / IDENTITYNET, lambda weights: weights | more)
    rewrite_weights(folder / "text_encoder" / "model.safetensors", lambda weights: dict(list(weights.items())[2:]))
    message = refusal(folder)
    for name in gone:
        assert f"{folder / UNET}: missing {name}" in message
    assert f"{folder / IDENTITYNET}: unexpected controlnet_down_blocks.6.weight [4]" in message
    assert f"{folder / IDENTITYNET}: controlnet_mid_block.bias is [7], needed [96]" in message
    assert message.count("text_encoder/model.safetensors: missing") == 2
    assert "7 problems" in message


def test_missing_keys_of_one_shard_are_found(folder):
    model = UNet2DConditionModel.from_pretrained(folder / "unet")
    shutil.rmtree(folder / "unet")
    model.save_pretrained(folder / "unet", max_shard_size="8MB")
    shard = sorted((folder / "unet").glob("*.safetensors"))[-1]
    lost = sorted(load_file(shard))[0]
    rewrite_weights(shard, lambda weights: {n: t for n, t in weights.items() if n != lost})
    assert f"missing {lost} " in refusal(folder)
    shard.unlink()
    assert shard.name in refusal(folder)


def test_an_adapter_whose_layers_are_shifted_is_refused(folder):
    """As if the module list held the cross-attentions only, or started with one."""

    def shift(name):
        section, index, *rest = name.split(".")
        return ".".join([section, str(int(index) - 1), *rest]) if section == "ip_adapter" else name

    rewrite_weights(folder / ADAPTER, lambda weights: {shift(n): t for n, t in weights.items()})
    message = refusal(folder)
    for index in range(1, 20, 2):
        for name in ("to_k_ip", "to_v_ip"):
            assert f"{folder / ADAPTER}: missing ip_adapter.{index}.{name}.weight" in message
            assert f"{folder / ADAPTER}: unexpected ip_adapter.{index - 1}.{name}.weight" in message
    assert "40 problems" in message


def test_an_adapter_in_another_order_is_refused(folder):
    """Mid block before up blocks: every layer is there, some have another width."""

    def reorder(name):
        section, index, *rest = name.split(".")
        if section != "ip_adapter" or int(index) < 7:
            return name
        return ".".join([section, "7" if index == "19" else str(int(index) + 2), *rest])

    rewrite_weights(folder / ADAPTER, lambda weights: {reorder(n): t for n, t in weights.items()})
    message = refusal(folder)
    assert f"{folder / ADAPTER}: ip_adapter.19.to_k_ip.weight is [64, 128], needed [96, 128]" in message
    assert f"{folder / ADAPTER}: ip_adapter.15.to_v_ip.weight is [96, 128], needed [64, 128]" in message


def test_missing_weights_of_the_adapter_are_all_listed(folder):
    gone = ["image_proj.layers.1.0.to_kv.weight", "image_proj.norm_out.bias", "ip_adapter.5.to_v_ip.weight"]
    rewrite_weights(folder / ADAPTER, lambda weights: {n: t for n, t in weights.items() if n not in gone})
    message = refusal(folder)
    assert all(f"missing {name}" in message for name in gone)
    telling = "image_proj.latents"
    rewrite_weights(folder / ADAPTER, lambda weights: {n: t for n, t in weights.items() if n != telling})
    message = refusal(folder)
    assert "image_proj.latents" in message
    assert "missing ip_adapter.5.to_v_ip.weight" in message


def test_an_adapter_for_another_face_encoder_is_refused(folder):
    rewrite_weights(folder / ADAPTER, lambda weights: weights | {"image_proj.proj_in.weight": torch.randn(128, 512)})
    message = refusal(folder)
    assert f"{folder / 'faces' / 'dlib_resnet_128.onnx'} has 128, {folder / ADAPTER} has 512" in message
    assert "1 problem\n" in message


def test_an_identitynet_for_another_unet_is_refused(folder):
    blocks = {"block_out_channels": (32, 64, 64), "down_block_types": ("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2}
    other = ControlNetModel.from_config(
        {**ControlNetModel.load_config(folder / "ControlNetModel"), **blocks, "cross_attention_dim": 96}
    )
    shutil.rmtree(folder / "ControlNetModel")
    other.save_pretrained(folder / "ControlNetModel")
    message = refusal(folder)
    config, unet = folder / "ControlNetModel" / "config.json", folder / "unet" / "config.json"
    assert f"block_out_channels: {unet} has [64, 96, 96], {config} has [32, 64, 64]" in message
    assert f"{config} has ['DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D']" in message
    assert f"has 128, {config} has 96" in message
    assert "3 problems" in message


def test_swapped_text_encoders_are_refused(folder):
    (folder / "text_encoder").rename(folder / "swap")
    (folder / "text_encoder_2").rename(folder / "text_encoder")
    (folder / "swap").rename(folder / "text_encoder_2")
    message = refusal(folder)
    assert "describes no CLIPTextModel Found: CLIPTextModelWithProjection" in message
    assert "describes no CLIPTextModelWithProjection Found: CLIPTextModel" in message


def test_a_vae_with_other_latents_is_refused(folder):
    other = AutoencoderKL.from_config({**AutoencoderKL.load_config(folder / "vae"), "latent_channels": 16})
    shutil.rmtree(folder / "vae")
    other.save_pretrained(folder / "vae")
    expected = f"latent channels: {folder / 'unet' / 'config.json'} has 4, {folder / 'vae' / 'config.json'} has 16"
    assert expected in refusal(folder)


def test_a_network_that_is_not_sdxl_is_refused(folder):
    rewrite_config(folder / "unet" / "config.json", time_cond_proj_dim=64)
    message = refusal(folder)
    assert "time_cond_proj_dim is 64, needed None" in message
    assert "missing time_embedding.cond_proj.weight" in message


def test_a_config_that_makes_no_network_is_refused(folder):
    rewrite_config(folder / "unet" / "config.json", block_out_channels=[64, 96])
    assert f"{folder / 'unet' / 'config.json'}: no UNet2DConditionModel can be built from it" in refusal(folder)
    (folder / "vae" / "config.json").unlink()
    (folder / "vae" / "config.json").write_text("{")
    message = refusal(folder)
    assert f"{folder / 'vae' / 'config.json'} is no readable JSON file" in message
    assert "no UNet2DConditionModel" in message


def test_missing_folders_are_all_named(folder):
    for name in ("unet", "tokenizer_2", "faces"):
        shutil.rmtree(folder / name)
    message = refusal(folder)
    assert all(name in message for name in ("unet/", "tokenizer_2/", "faces/"))


@pytest.mark.parametrize(
    "gone",
    [
        UNET,
        "unet/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "scheduler/scheduler_config.json",
        "faces/tiny_face_68.onnx",
        "ControlNetModel/diffusion_pytorch_model.safetensors",
    ],
)
def test_a_missing_file_is_named(gone, folder):
    (folder / gone).unlink()
    message = refusal(folder)
    assert Path(gone).name in message
    assert str((folder / gone).parent) in message


def test_a_tokenizer_without_vocabulary_is_refused(folder):
    (folder / "tokenizer" / "vocab.json").unlink()
    (folder / "tokenizer" / "tokenizer.json").unlink()
    assert f"{folder / 'tokenizer'}: neither vocab.json with merges.txt nor tokenizer.json" in refusal(folder)


def test_a_tokenizer_of_another_text_encoder_is_refused(folder):
    vocabulary = folder / "tokenizer" / "vocab.json"
    rewrite_config(vocabulary, extra=700)
    assert f"{vocabulary} has ids up to 700, {folder / 'text_encoder' / 'config.json'} has 700 tokens" in refusal(
        folder
    )


def test_a_truncated_weights_file_is_refused(folder):
    content = (folder / UNET).read_bytes()
    (folder / UNET).unlink()
    (folder / UNET).write_bytes(content[: len(content) // 2])
    assert f"{folder / UNET} is no readable safetensors file" in refusal(folder)


def test_pickled_networks_are_not_read(folder):
    torch.save(load_file(folder / UNET), folder / "unet" / "diffusion_pytorch_model.bin")
    (folder / UNET).unlink()
    message = refusal(folder)
    assert "no weights as safetensors" in message
    assert "diffusion_pytorch_model.bin" in message


def test_a_single_file_checkpoint_is_refused_with_the_way_to_convert_it(folder):
    assert "from_single_file" in refusal(folder / UNET)


# ---- the hub


def test_a_path_that_does_not_exist_is_named(tmp_path):
    assert f"No such file or folder: {tmp_path / 'nowhere'}" in refusal(tmp_path / "nowhere")


def test_an_unreachable_hub_is_reported(monkeypatch, tmp_path):
    """The real client, offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open("someone/some-model", revision="v1.0")
    message = str(caught.value)
    assert "someone/some-model" in message
    assert "at revision v1.0" in message
    assert "LocalEntryNotFoundError" in message


@pytest.fixture
def hub(monkeypatch, folder, tmp_path):
    """A hub that holds ``folder`` as every repository: gives what matches the patterns, as the real one does."""
    snapshot, calls = tmp_path / "snapshot", []

    def snapshot_download(repo, *, revision, allow_patterns, ignore_patterns):
        calls.append((repo, revision))
        files = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
        matching = huggingface_hub.utils.filter_repo_objects(
            files, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns
        )
        for name in matching:
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            if not (snapshot / name).exists():
                (snapshot / name).symlink_to(folder / name)
        return str(snapshot)

    monkeypatch.setattr(locate_module.huggingface_hub, "snapshot_download", snapshot_download)
    return SimpleNamespace(calls=calls, snapshot=snapshot)


def test_a_combined_repository_is_downloaded_without_what_is_not_needed(hub, folder):
    (folder / "unet" / "diffusion_pytorch_model.fp16.safetensors").touch()
    (folder / "unet" / "model.onnx").touch()
    (folder / "sd_xl_base_1.0.safetensors").touch()
    checkpoint = Checkpoint.open("someone/model", revision="v2")
    assert hub.calls == [("someone/model", "v2")]
    assert checkpoint.places.base == hub.snapshot
    names = {p.name for p in hub.snapshot.rglob("*")}
    assert not names & {"diffusion_pytorch_model.fp16.safetensors", "model.onnx", "sd_xl_base_1.0.safetensors"}


def test_fp16_weights_are_downloaded_where_there_are_no_plain_ones(hub, folder):
    (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    checkpoint = Checkpoint.open("someone/model")
    assert hub.calls == [("someone/model", None)] * 2
    assert checkpoint.components["unet"].files.variant == "fp16"


def test_parts_come_from_repositories_of_their_own_with_their_own_revisions(hub, nano_checkpoint):
    Checkpoint.open(
        nano_checkpoint, identitynet="a/net@v1", adapter="b/adapter", faces="c/faces@0123abc", revision="ignored"
    )
    assert hub.calls == [("a/net", "v1"), ("b/adapter", None), ("c/faces", "0123abc")]
    assert not (hub.snapshot / "unet").exists()
