"""A bundle that is incomplete, altered or foreign is refused with the reason."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest

from doubles.graphs import projection, write_bundle
from doubles.small import DIMS
from instantrt.bundle import MANIFEST, Bundle, Manifest, PictureSizes, linked_data, read_manifest, write_manifest
from instantrt.contracts import Residual, network_contracts
from instantrt.engine import TargetOptions
from instantrt.errors import BundleError, RequestError
from instantrt.targets import open_target

SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx/unet.onnx").write_bytes(b"graph" * 100)
    (folder / "onnx/unet.onnx.data").write_bytes(b"weights" * 1000)
    manifest = Manifest(
        dims=DIMS,
        precision="fp32",
        sizes=PictureSizes((128, 128), (64, 64), (256, 192)),
        slots=(1, 4),
        guidance_batch=(1, 2),
        scheduler=SCHEDULER,
        force_zeros_for_empty_prompt=True,
        networks={"unet": "onnx/unet.onnx"},
        made_by={"torch": "2"},
    )
    write_manifest(folder, manifest)
    return folder


def edit(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / MANIFEST
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def test_a_manifest_survives_the_round_trip(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.dims == DIMS
    assert set(opened.manifest.files) == {"onnx/unet.onnx", "onnx/unet.onnx.data"}
    assert opened.onnx("unet") == bundle / "onnx/unet.onnx"
    again = Manifest.from_json(opened.manifest.to_json())
    assert again == opened.manifest


def test_no_folder_and_no_manifest_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        Bundle.open(tmp_path / "nowhere")
    with pytest.raises(BundleError, match="interrupted"):
        Bundle.open(tmp_path)


def test_all_missing_and_truncated_files_are_listed(bundle: Path) -> None:
    (bundle / "onnx/unet.onnx").unlink()
    (bundle / "onnx/unet.onnx.data").write_bytes(b"weights")
    with pytest.raises(BundleError) as error:
        Bundle.open(bundle)
    assert "onnx/unet.onnx is missing" in str(error.value)
    assert "onnx/unet.onnx.data has 7 bytes instead of 7000" in str(error.value)


@pytest.mark.parametrize("name", ["onnx/unet.onnx", "onnx/unet.onnx.data"])
def test_a_flipped_byte_is_found_when_the_network_is_used(bundle: Path, name: str) -> None:
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(bytes(data))
    opened = Bundle.open(bundle)
    with pytest.raises(BundleError, match=f"{name} was altered"):
        opened.onnx("unet")


def test_a_network_that_was_not_exported_names_the_command(bundle: Path) -> None:
    with pytest.raises(BundleError, match="--only vae_decoder"):
        Bundle.open(bundle).onnx("vae_decoder")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=99), "format 99"),
        (lambda d: d.pop("dims"), "KeyError: 'dims'"),
        (lambda d: d["dims"].update(wings=2), "wings"),
    ],
)
def test_an_unreadable_manifest_says_why(bundle: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match=message):
        Bundle.open(bundle)


def test_a_bundle_of_other_contracts_is_told_before_a_network_is_loaded(bundle: Path) -> None:
    """As one is that was exported before an output was added."""

    def older(data: dict[str, Any]) -> None:
        del data["contracts"]["unet"]["outputs"][-1]

    edit(bundle, older)
    with pytest.raises(BundleError, match="other inputs or outputs than this version"):
        Bundle.open(bundle)


def test_a_manifest_that_is_no_json_says_so(bundle: Path) -> None:
    (bundle / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match="cannot be read as a manifest"):
        Bundle.open(bundle)


def test_sizes_are_multiples_of_64_within_the_range() -> None:
    sizes = PictureSizes((128, 128), (64, 64), (256, 192))
    for width, height in ((64, 64), (128, 192), (256, 64)):
        sizes.check(width, height)
    with pytest.raises(RequestError, match="use 128x192"):
        sizes.check(130, 200)
    with pytest.raises(RequestError, match="64x64 to 256x192"):
        sizes.check(192, 256)
    with pytest.raises(RequestError, match="multiples of 64"):
        sizes.check(0, 64)


def test_sdxl_contracts_have_the_shapes_of_the_published_networks() -> None:
    down = [(320, 8)] * 3 + [(320, 16), (640, 16), (640, 16), (640, 32), (1280, 32), (1280, 32)]
    sdxl = replace(
        DIMS,
        token_width=2048,
        text_width=768,
        text_width_2=1280,
        pooled_width=1280,
        unet_kv_width=166400,
        control_channels=320,
        detector="scrfd",
        detector_px=640,
        residuals=tuple(Residual(c, s) for c, s in down),
        mid_residual=Residual(1280, 32),
    )
    contracts = network_contracts(sdxl)
    assert len(contracts) == 11
    symbols = {"B": 2, "G": 2, "H": 1024, "W": 768}
    unet = {s.name: s.resolve(symbols) for s in contracts["unet"].inputs}
    assert unet["residual_8"] == (2, 2, 1280, 32, 24)
    assert unet["text_kv"] == (2, 2, 77, 166400)
    assert unet["adapter_mask_32"] == (2, 1, 32, 24)
    heads = {s.name: s.shape for s in contracts["face_detector"].outputs}
    assert heads["scores_8"] == (12800, 1)
    assert heads["keypoints_32"] == (800, 10)


def test_a_file_that_went_away_after_the_bundle_was_opened_says_to_open_it_again(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    (bundle / "onnx/unet.onnx").unlink()
    with pytest.raises(BundleError, match=r"(?s)onnx/unet\.onnx cannot be read any more.*load the bundle again"):
        opened.onnx("unet")


def test_files_may_lie_elsewhere_than_their_names_say(bundle: Path) -> None:
    (bundle / "second").mkdir()
    (bundle / "onnx").rename(bundle / "second/onnx")
    moved = {name: f"second/{name}" for name in ("onnx/unet.onnx", "onnx/unet.onnx.data")}
    edit(bundle, lambda data: data.update(moved=moved))
    opened = Bundle.open(bundle)
    assert opened.onnx("unet") == bundle / "second/onnx/unet.onnx"
    assert Manifest.from_json(opened.manifest.to_json()) == opened.manifest
    (bundle / "second/onnx/unet.onnx.data").unlink()
    with pytest.raises(BundleError, match=r"onnx/unet\.onnx\.data is missing"):
        Bundle.open(bundle)


def test_only_what_the_format_names_is_part_of_a_bundle(bundle: Path) -> None:
    for name in ("picture.png", ".git/HEAD", "onnx/notes.txt", "onnx/vae_decoder.onnx", "plans/x/unet.plan"):
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_bytes(b"mine")
    write_manifest(bundle, Bundle.open(bundle).manifest)
    assert set(Bundle.open(bundle).manifest.files) == {"onnx/unet.onnx", "onnx/unet.onnx.data"}


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_linked_weights_are_known_as_such(bundle: Path, tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    path = bundle / "onnx/unet.onnx"
    assert linked_data(path) is None
    data = Path(f"{path}.data")
    data.rename(tmp_path / "blob")
    link(tmp_path / "blob", data)
    assert "link" in (linked_data(path) or "")


def test_weights_behind_a_link_that_onnx_runtime_does_not_follow_are_told_to_be_copied(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", {"image_projection": projection()})
    path = folder / "onnx/image_projection.onnx"
    proto = onnx.load(path)
    onnx.save(proto, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1000)
    Path(f"{path}.data").rename(tmp_path / "blob")
    Path(f"{path}.data").symlink_to(tmp_path / "blob")
    write_manifest(folder, read_manifest(folder))
    target = open_target("onnxruntime", Bundle.open(folder), TargetOptions())
    with pytest.raises(BundleError, match=r"(?s)cannot load image_projection\.onnx.*data is a link to .*blob.*cp -rL"):
        target.load("image_projection", {})
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert open_target("onnxruntime", Bundle.open(copy), TargetOptions()).load("image_projection", {})
