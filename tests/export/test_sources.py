"""Every weight is read before an export: what is not finite is named, and the same weights have the same digest."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from diffusers import UNet2DConditionModel
from onnx import numpy_helper
from safetensors.torch import load_file

from doubles.checkpoints import (
    ADAPTER,
    IDENTITYNET,
    TEXT,
    TEXT_2,
    UNET,
    VAE,
    replace_file,
    rewrite_config,
    rewrite_weights,
)
from instantrt.cli import main
from instantrt.errors import CheckpointError
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.sources import read_sources

PARTS = {
    "unet": UNET,
    "identitynet": IDENTITYNET,
    "vae": VAE,
    "text_encoder": TEXT,
    "text_encoder_2": TEXT_2,
    "adapter": ADAPTER,
}


@pytest.fixture(scope="module")
def digests(nano_checkpoint: Path) -> dict[str, str]:
    return read_sources(Checkpoint.open(nano_checkpoint), "fp32")


def differing(folder: Path, digests: dict[str, str]) -> list[str]:
    now = read_sources(Checkpoint.open(folder), "fp32")
    assert now.keys() == digests.keys()
    return [part for part in now if now[part] != digests[part]]


def one_number(value: float, dtype: torch.dtype = torch.float32) -> Callable[[dict], dict]:
    """An edit that sets one number, in the middle of a weight in the middle of the file."""

    def edit(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights = {name: weight.to(dtype) for name, weight in weights.items()}
        name = middle(weights)
        weights[name].view(-1)[weights[name].numel() // 2] = value
        return weights

    return edit


def middle(weights: dict[str, torch.Tensor]) -> str:
    names = sorted(name for name in weights if not name.startswith("encoder."))  # of the VAE, half of the file
    return names[len(names) // 2]


def refusal(folder: Path, precision: str = "fp32") -> str:
    with pytest.raises(CheckpointError) as caught:
        read_sources(Checkpoint.open(folder), precision)
    return str(caught.value)


@pytest.mark.parametrize(
    ("part", "value", "dtype"),
    [
        ("unet", np.nan, torch.float32),
        ("unet", np.nan, torch.float8_e4m3fn),
        ("identitynet", np.inf, torch.float16),
        ("vae", -np.inf, torch.bfloat16),
        ("text_encoder", np.nan, torch.float16),
        ("text_encoder_2", np.inf, torch.float32),
        ("adapter", np.nan, torch.bfloat16),
    ],
)
def test_a_weight_that_is_not_finite_is_named_with_its_file(
    folder: Path, part: str, value: float, dtype: torch.dtype
) -> None:
    path = folder / PARTS[part]
    rewrite_weights(path, one_number(value, dtype))
    assert f"{path}: {middle(load_file(path))} holds {'nan' if np.isnan(value) else 'inf'}" in refusal(folder)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old format"])
def test_weights_of_a_pickled_adapter_are_looked_at_too(folder: Path, new: bool) -> None:
    weights = one_number(np.nan)(load_file(folder / ADAPTER))
    nested = {
        section: {name.removeprefix(f"{section}."): w for name, w in weights.items() if name.startswith(section)}
        for section in ("image_proj", "ip_adapter")
    }
    (folder / ADAPTER).unlink()
    torch.save(nested, folder / "ip-adapter.bin", _use_new_zipfile_serialization=new)
    assert f"{folder / 'ip-adapter.bin'}: {middle(weights)} holds nan" in refusal(folder)


def test_weights_of_face_networks_are_looked_at_too(folder: Path) -> None:
    path = folder / "faces" / "dlib_resnet_128.onnx"
    model = onnx.load(path)
    weight = next(w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT)
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    path.unlink()
    onnx.save(model, path)
    assert f"{path}: {weight.name} holds numbers that are not finite" in refusal(folder)


def test_a_face_network_that_is_another_one_is_refused_before_anything_is_exported(folder: Path) -> None:
    path = folder / "faces" / "tiny_face_68.onnx"
    model = onnx.load(path)
    del model.graph.node[-1]
    path.unlink()
    onnx.save(model, path)
    assert f"{path} does not fit its contract" in refusal(folder)


@pytest.mark.parametrize("part", ["unet", "text_encoder", "adapter"])
def test_a_weight_that_is_too_large_for_fp16_is_refused_for_fp16_only(folder: Path, part: str) -> None:
    rewrite_weights(folder / PARTS[part], one_number(-65520.0))
    message = refusal(folder, "fp16")
    assert "reaches 65520, fp16 holds numbers up to 65504" in message
    assert "--precision fp32" in message
    read_sources(Checkpoint.open(folder), "fp32")
    rewrite_weights(folder / PARTS[part], one_number(-65519.0))
    read_sources(Checkpoint.open(folder), "fp16")


def test_a_vae_that_stays_in_fp32_may_have_large_weights(folder: Path) -> None:
    rewrite_weights(folder / VAE, one_number(1e6))
    assert "fp16" in refusal(folder, "fp16")
    rewrite_config(folder / "vae" / "config.json", force_upcast=True)
    read_sources(Checkpoint.open(folder), "fp16")


def test_many_weights_that_are_wrong_are_counted(folder: Path) -> None:
    rewrite_weights(folder / UNET, lambda weights: {n: torch.full_like(w, torch.nan) for n, w in weights.items()})
    count = len(load_file(folder / UNET))
    message = refusal(folder)
    assert message.count("holds nan") == 5
    assert f"and {count - 5} more" in message


@pytest.mark.parametrize("part", PARTS)
def test_one_other_number_is_another_source(folder: Path, digests: dict[str, str], part: str) -> None:
    rewrite_weights(folder / PARTS[part], one_number(0.125))
    assert differing(folder, digests) == [part]


def test_the_same_weights_in_other_files_are_the_same_source(folder: Path, digests: dict[str, str]) -> None:
    model = UNet2DConditionModel.from_pretrained(folder / "unet")
    shutil.rmtree(folder / "unet")
    model.save_pretrained(folder / "unet", max_shard_size="5MB")
    assert len(list((folder / "unet").glob("*.safetensors"))) > 1
    weights = load_file(folder / ADAPTER)
    (folder / ADAPTER).unlink()
    torch.save(weights, folder / "ip-adapter.bin")
    rewrite_config(folder / "vae" / "config.json", _diffusers_version="0.99", _name_or_path="elsewhere")
    assert differing(folder, digests) == []


def test_another_config_tokenizer_or_face_network_is_another_source(folder: Path, digests: dict[str, str]) -> None:
    rewrite_config(folder / "unet" / "config.json", norm_eps=1e-6)
    merges = folder / "tokenizer_2" / "merges.txt"
    replace_file(merges, merges.read_bytes() + b"\n")
    path = folder / "faces" / "tiny_face_68.onnx"
    model = onnx.load(path)
    model.doc_string = "another"
    path.unlink()
    onnx.save(model, path)
    assert differing(folder, digests) == ["unet", "tokenizer_2", "face_detector"]


def test_progress_names_what_is_done(nano_checkpoint: Path) -> None:
    seen = []
    checkpoint = Checkpoint.open(nano_checkpoint)
    read_sources(checkpoint, "fp32", lambda *event: seen.append(event))
    assert [done for _, done, _ in seen] == list(range(10))
    assert {(name, total) for name, _, total in seen} == {("reading the weights", 10)}


def test_the_command_refuses_before_it_writes_anything(folder: Path, tmp_path: Path, capsys) -> None:
    rewrite_weights(folder / UNET, one_number(np.nan))
    assert main(["export", str(folder), "--out", str(tmp_path / "bundle"), "--no-parity"]) == 1
    assert "holds nan" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
