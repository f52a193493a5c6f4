"""Downloads gone wrong are told by what they are, wherever they lie in a checkpoint."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from doubles.checkpoints import ADAPTER, UNET, refusal, replace_file
from instantrt.errors import CheckpointError
from instantrt_export.adapter import AdapterFile
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.file_kinds import SAFETENSORS, TORCH, file_kind


def torch_bytes(new: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save({"a": torch.zeros(3)}, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


def zip_bytes() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("antelopev2/glintr100.onnx", "x")
    return file.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5135149760\n"
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Log in</title></head></html>"

KINDS = {
    "pointer": (POINTER, "a Git LFS pointer to a file of 5,135,149,760 bytes", "git lfs pull"),
    "page": (PAGE, "a web page", "/resolve/"),
    "long page": (PAGE + b"<p>\xc3\xa4" * 2000, "a web page", "/resolve/"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page", "download the file itself"),
    "text": (b"Entry not found", "the text 'Entry not found'", "download it again"),
    "nothing": (b"", "an empty file", "download it again"),
    "zip": (zip_bytes(), "a zip archive", "unpack it"),
    "gzip": (gzip.compress(b"x" * 5000), "a gzip archive", "unpack it"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(2000), "a GGUF file", "before they were quantised"),
    "torch": (torch_bytes(), "a PyTorch pickle", "safetensors"),
    "old torch": (torch_bytes(new=False), "a PyTorch pickle", "safetensors"),
    "pickle": (pickle.dumps({"a": 1}), "a PyTorch pickle", "safetensors"),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_are_told_by_the_first_bytes(tmp_path: Path, name: str) -> None:
    content, what, hint = KINDS[name]
    (tmp_path / "file").write_bytes(content)
    kind = file_kind(tmp_path / "file")
    assert kind is not None
    assert kind.what == what
    assert hint in kind.hint


@pytest.mark.parametrize("content", [bytes(2000), b"\x08\x07\x12\x07pytorch" + bytes(100), b"\xff" * 3])
def test_what_is_not_known_has_no_kind(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert file_kind(tmp_path / "file") is None


def test_safetensors_are_known_whatever_their_name(tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(save({"a": torch.zeros(3)}))
    assert file_kind(tmp_path / "file.bin") is SAFETENSORS
    (tmp_path / "cut.bin").write_bytes(save({"a": torch.zeros(3)})[:20])
    assert file_kind(tmp_path / "cut.bin") is not SAFETENSORS


PLACES = {
    UNET: "is no readable safetensors file",
    "unet/config.json": "is no readable JSON file",
    "scheduler/scheduler_config.json": "is no readable JSON file",
    "tokenizer/vocab.json": "is no readable JSON file",
    "faces/tiny_face_68.onnx": "is no readable ONNX file",
    "faces/dlib_resnet_128.onnx": "is no readable ONNX file",
    ADAPTER: "is no readable tensor file",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["pointer", "page", "zip"])
def test_every_part_of_a_checkpoint_is_told_by_what_it_is(folder: Path, place: str, name: str) -> None:
    content, what, hint = KINDS[name]
    replace_file(folder / place, content)
    message = refusal(folder)
    assert f"{folder / place} {PLACES[place]}" in message
    assert what in message
    assert hint in message


@pytest.mark.parametrize("name", ["ip-adapter.bin", "ip-adapter.safetensors"])
@pytest.mark.parametrize("form", ["safetensors", "torch"])
def test_an_adapter_is_read_whatever_its_name(tmp_path: Path, name: str, form: str) -> None:
    weights = {"image_proj.latents": torch.ones(1, 2, 3), "ip_adapter.1.to_k_ip.weight": torch.ones(4, 3)}
    path = tmp_path / name
    if form == "safetensors":
        path.write_bytes(save(weights))
    else:
        torch.save(weights, path)
    adapter = AdapterFile.open(path)
    assert adapter.shapes == {n: tuple(t.shape) for n, t in weights.items()}
    assert torch.equal(adapter.read("ip_adapter.", torch.float32)["1.to_k_ip.weight"], torch.ones(4, 3))


def test_a_networks_safetensors_under_another_name_are_told_with_the_right_name(folder: Path) -> None:
    (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model.bin")
    message = refusal(folder)
    assert "diffusion_pytorch_model.bin is a safetensors file: call it diffusion_pytorch_model.safetensors" in message


def test_a_pickle_under_a_networks_name_is_told_as_what_it_is(folder: Path) -> None:
    weights = load_file(folder / UNET)
    (folder / UNET).unlink()
    torch.save(weights, folder / UNET)
    message = refusal(folder)
    assert f"{folder / UNET} is no readable safetensors file" in message
    assert kind_text(TORCH.what) in message


def kind_text(what: str) -> str:
    return f"Found: {what}"


class Evil:
    """Calls a function when it is unpickled."""

    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return self.call, ("ran",)


@pytest.mark.parametrize(("call", "name"), [(print, "print"), (os.system, "posix.system")])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "old format"])
def test_a_pickle_that_asks_for_code_is_explained_without_advice_to_run_it(
    tmp_path: Path, new: bool, call: object, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"image_proj": Evil(call)}, tmp_path / "ip-adapter.bin", _use_new_zipfile_serialization=new)
    with pytest.raises(CheckpointError) as caught:
        AdapterFile.open(tmp_path / "ip-adapter.bin")
    message = str(caught.value)
    assert f"Found: it asks for {name}\n" in message
    assert "never loaded" in message
    assert "safetensors" in message
    for advice in ("weights_only", "add_safe_globals", "trust", "In PyTorch"):
        assert advice not in message
    assert capsys.readouterr().out == ""


def test_a_quantised_network_is_refused(folder: Path) -> None:
    weights = {name: weight.to(torch.int8) for name, weight in load_file(folder / UNET).items()}
    replace_file(folder / UNET, save(weights))
    message = refusal(folder)
    assert "holds weights that are no floating-point numbers" in message
    assert "I8" in message
    assert "before they were quantised" in message


def test_weights_in_eight_bit_floats_are_read(folder: Path) -> None:
    weights = {name: weight.to(torch.float8_e4m3fn) for name, weight in load_file(folder / UNET).items()}
    replace_file(folder / UNET, save(weights, metadata={"format": "pt"}))
    checkpoint = Checkpoint.open(folder)
    loaded = checkpoint.unet(torch.float32).state_dict()
    assert all(torch.equal(loaded[name], weight.float()) for name, weight in weights.items())
