"""The layouts in which people have their files: those that others load are loaded, the rest is told what to do."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import onnx
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModelWithProjection

from doubles.checkpoints import UNET, refusal, replace_file
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.faces.graphs import load_face_model
from instantrt_export.weights import find_weights

STEMS = {"unet": "diffusion_pytorch_model", "text_encoder_2": "model"}


def in_shards(folder: Path, index: str, shard: str, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    """The weights of a network in three shards named as ``shard`` says, with ``index``; all weights."""
    (single,) = folder.glob("*.safetensors")
    weights = {name: weight.to(dtype) for name, weight in load_file(single).items()}
    single.unlink()
    names, places = sorted(weights), {}
    for number in range(3):
        part = {name: weights[name] for name in names[number::3]}
        file = shard.format(number + 1)
        save_file(part, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return weights


NAMINGS = {
    "diffusers 0.31": ("{stem}.safetensors.index.fp16.json", "{stem}.fp16-{{:05}}-of-00003.safetensors", "fp16"),
    "older diffusers": ("{stem}.safetensors.fp16.index.json", "{stem}-{{:05}}-of-00003.fp16.safetensors", "fp16"),
    "mixed": ("{stem}.safetensors.index.fp16.json", "{stem}-{{:05}}-of-00003.fp16.safetensors", "fp16"),
    "bf16": ("{stem}.safetensors.index.bf16.json", "{stem}.bf16-{{:05}}-of-00003.safetensors", "bf16"),
    "no variant in the names": ("{stem}.safetensors.index.json", "part-{{:05}}.safetensors", None),
}


@pytest.mark.parametrize("part", STEMS)
@pytest.mark.parametrize("naming", NAMINGS)
def test_shards_are_found_in_every_naming_scheme(folder: Path, naming: str, part: str) -> None:
    index, shard, variant = NAMINGS[naming]
    stem, dtype = STEMS[part], torch.bfloat16 if variant == "bf16" else torch.float16
    weights = in_shards(folder / part, index.format(stem=stem), shard.format(stem=stem), dtype)
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.components[part].files.variant == variant
    loaded = getattr(checkpoint, part)(torch.float32).state_dict()
    stored = {name.removeprefix("text_model."): weight for name, weight in weights.items()}
    mine = {name.removeprefix("text_model."): weight for name, weight in loaded.items()}
    assert all(torch.equal(mine[name], weight.float()) for name, weight in stored.items())


def test_older_names_are_those_that_diffusers_itself_loads(folder: Path, tmp_path: Path) -> None:
    index, shard, _ = NAMINGS["older diffusers"]
    plain = tmp_path / "unet"  # without dots in the path, at which diffusers splits it
    shutil.copytree(folder / "unet", plain)
    in_shards(plain, index.format(stem=STEMS["unet"]), shard.format(stem=STEMS["unet"]))
    with pytest.warns(FutureWarning, match="serialization format is now deprecated"):
        theirs = UNet2DConditionModel.from_pretrained(plain, variant="fp16").state_dict()
    shutil.rmtree(folder / "unet")
    shutil.copytree(plain, folder / "unet")
    ours = Checkpoint.open(folder).unet(torch.float32).state_dict()
    assert all(torch.equal(ours[name], weight.float()) for name, weight in theirs.items())


def test_a_whole_variant_is_taken_where_plain_shards_are_missing(folder: Path) -> None:
    """As after a download of the fp16 files with the index of all."""
    stem = STEMS["text_encoder_2"]
    model = CLIPTextModelWithProjection.from_pretrained(folder / "text_encoder_2").half()
    path = folder / "text_encoder_2"
    replace_file(path / f"{stem}.fp16.safetensors", (path / f"{stem}.safetensors").read_bytes())
    (path / f"{stem}.safetensors").unlink()
    names = dict.fromkeys(model.state_dict(), f"{stem}-00001-of-00002.safetensors")
    (path / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    files = find_weights(path, stem)
    assert (files.path.name, files.variant) == (f"{stem}.fp16.safetensors", "fp16")
    (path / f"{stem}.fp16.safetensors").unlink()
    assert f"{stem}-00001-of-00002.safetensors cannot be read" in refusal(folder)


@pytest.mark.parametrize("place", ["antelopev2", "antelopev2/antelopev2", "models/antelopev2", "faces"])
def test_face_networks_are_found_where_people_have_them(folder: Path, place: str) -> None:
    (folder / "faces").rename(folder / "moved")
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    (folder / "moved").rename(folder / place)
    assert Checkpoint.open(folder).places.faces == folder / place
    given = folder / place.partition("/")[0]
    assert Checkpoint.open(folder, faces=given).places.faces == folder / place


def test_a_zip_of_the_face_networks_is_told_to_be_unpacked(folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(folder / "antelopev2.zip", "w") as archive:
        for path in (folder / "faces").iterdir():
            archive.write(path, f"antelopev2/{path.name}")
    shutil.rmtree(folder / "faces")
    assert f"nothing usable in {folder}, unpack antelopev2.zip there" in refusal(folder)
    message = refusal(folder, faces=folder / "antelopev2.zip")
    assert f"{folder / 'antelopev2.zip'} is a zip archive: unpack it" in message


@pytest.mark.parametrize("part", ["identitynet", "faces"])
def test_a_file_given_where_a_folder_is_expected_is_told(folder: Path, part: str) -> None:
    message = refusal(folder, **{part: folder / UNET})
    assert f"{folder / UNET} is a safetensors file, and a folder is needed" in message


@pytest.mark.parametrize(
    ("content", "what", "hint"),
    [
        (None, "a safetensors file", "from_single_file"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 6938078334\n", "6,938,078,334 bytes", "git lfs pull"),
        (b"<!doctype html>", "a web page", "/resolve/"),
        (bytes(5000), "a file of unknown kind", "from_single_file"),
    ],
)
def test_a_single_file_checkpoint_is_told_with_the_way_to_convert_it(
    folder: Path, tmp_path: Path, content: bytes | None, what: str, hint: str
) -> None:
    path = tmp_path / "sd_xl_base_1.0.safetensors"
    path.write_bytes((folder / UNET).read_bytes() if content is None else content)
    message = refusal(path)
    assert "is a file, not an SDXL folder" in message
    assert what in message
    assert hint in message


def test_a_folder_with_a_single_file_checkpoint_is_told_with_the_way_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "sd_xl_base_1.0.safetensors").write_bytes(bytes(100))
    message = refusal(tmp_path)
    assert "if sd_xl_base_1.0.safetensors is the checkpoint in a single file" in message
    assert "from_single_file" in message


def test_a_location_that_is_too_long_for_a_path_is_one_message(tmp_path: Path) -> None:
    assert "No such file or folder" in refusal(tmp_path / ("x" * 300))


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_weights_of_face_networks_behind_links_are_told_to_be_copied(tmp_path: Path, folder: Path, link) -> None:
    """As in a hub's cache, where every file is a link; onnx follows none to external data."""
    model = onnx.load(folder / "faces" / "tiny_face_68.onnx")
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    onnx.save(model, blobs / "x.onnx", save_as_external_data=True, location="x.onnx.data", size_threshold=0)
    for name in ("x.onnx", "x.onnx.data"):
        link(blobs / name, tmp_path / name)
    with pytest.raises(Exception, match=r"(?s)cannot be read through a link.*x\.onnx\.data.*cp -rL") as caught:
        load_face_model(tmp_path / "x.onnx")
    assert type(caught.value).__name__ == "CheckpointError"
    copy = shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-copy"), symlinks=False)
    assert load_face_model(copy / "x.onnx").graph.node
