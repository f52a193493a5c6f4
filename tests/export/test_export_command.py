"""`instantrt export` into a bundle that is there: it stays as it is until the new one is whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest

from doubles.checkpoints import UNET, rewrite_weights
from instantrt import InstantID
from instantrt.bundle import MANIFEST, Bundle, PictureSizes
from instantrt.cli import main
from instantrt.version import __version__
from instantrt_export import bundle as module
from instantrt_export.bundle import write_bundle
from instantrt_export.checkpoint import Checkpoint

SIZES = ["--min-size", "64x64", "--max-size", "256x256"]
SMALL = "image_projection"  # exported in seconds


@pytest.fixture
def bundle(nano_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(nano_bundle, tmp_path / "bundle"))


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def verified(folder: Path) -> Bundle:
    opened = Bundle.open(folder)
    for name in opened.manifest.files:
        opened.file(name)
    return opened


def export(checkpoint: Path, out: Path, *more: str) -> int:
    return main(["export", str(checkpoint), "--out", str(out), *SIZES, *more])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "vae"], "unknown network\nFound: vae\nTo do: choose from face_detector"),
        (["--only", "unet", "untext"], "Found: untext"),
        (["--only", "unet", "--precision", "fp16"], "exported differently\nFound: precision fp32 against fp16"),
        (["--only", "unet", "--slots", "2"], "slots (1, 4) against (2, 2)"),
        (["--min-size", "512x512"], "--min-size is above the checkpoint's size"),
        (["--faces", "nowhere"], "No such file or folder: nowhere"),
    ],
)
def test_a_mistake_changes_nothing(
    nano_checkpoint: Path, bundle: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(bundle)
    assert export(nano_checkpoint, bundle, *arguments) == 1
    assert said in capsys.readouterr().err
    assert content(bundle) == before


def test_a_source_tree_that_is_not_installed_exports(
    nano_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = metadata.Distribution.from_name

    def not_ours(name: str) -> metadata.Distribution:
        if name == "instantrt":
            raise metadata.PackageNotFoundError(name)
        return find(name)

    monkeypatch.setattr(metadata.Distribution, "from_name", not_ours)
    sizes = PictureSizes((64, 64), (64, 64), (64, 64))
    write_bundle(Checkpoint.open(str(nano_checkpoint)), tmp_path / "bundle", sizes, only=["image_projection"])
    assert Bundle.open(tmp_path / "bundle").manifest.made_by["instantrt"] == __version__


def test_another_checkpoint_of_the_same_sizes_is_refused(folder: Path, bundle: Path, capsys) -> None:
    rewrite_weights(folder / UNET, lambda weights: {name: weight * 1.01 for name, weight in weights.items()})
    before = content(bundle)
    assert export(folder, bundle, "--only", SMALL) == 1
    assert "another checkpoint: unet differ" in capsys.readouterr().err
    assert content(bundle) == before


def test_the_checkpoint_itself_is_no_place_for_a_bundle(folder: Path, capsys) -> None:
    names = sorted(folder.rglob("*"))
    for out in (folder, folder / "ControlNetModel", folder / "unet" / ".."):
        assert export(folder, out, "--only", SMALL) == 1
        assert "cannot be written into the checkpoint's own folder" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == names


def test_a_network_exported_again_joins_the_others_and_makes_pictures(
    nano_checkpoint: Path, bundle: Path, astronaut
) -> None:
    before = verified(bundle).manifest
    (bundle / "onnx" / f"{SMALL}.onnx").write_bytes(b"damaged")
    (bundle / "picture.png").write_bytes(b"saved here")
    assert export(nano_checkpoint, bundle, "--only", SMALL) == 0
    after = verified(bundle).manifest
    assert list(after.networks) == list(before.networks)
    assert after.files == before.files, "the same checkpoint gives the same files"
    assert (bundle / "picture.png").exists()
    with InstantID.load(bundle) as pipeline:
        assert pipeline.generate(face=astronaut, prompt="a person", steps=4, seed=1).images


def test_a_bundle_says_what_it_was_made_from(nano_bundle: Path) -> None:
    data = json.loads((nano_bundle / MANIFEST).read_text())
    assert list(data["sources"]) == [
        *("unet", "identitynet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
        *("adapter", "face_detector", "face_encoder"),
    ]
    assert data["moved"] == {}
    assert set(data["files"]) == set(content(nano_bundle)) - {MANIFEST}


def test_a_disk_that_cannot_hold_the_bundle_is_told_before_the_export(
    nano_checkpoint: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_000_000))
    assert export(nano_checkpoint, tmp_path / "bundle") == 1
    said = capsys.readouterr().err
    assert "the disk cannot hold the bundle" in said
    assert f"0.00 GB are free in {tmp_path}, its weights take at least 0.02 GB" in said
    assert not (tmp_path / "bundle").exists()


def test_ctrl_c_while_a_network_is_added_changes_nothing(nano_checkpoint: Path, bundle: Path, monkeypatch) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    before = content(bundle)
    monkeypatch.setattr(module, "publish", interrupted)
    assert export(nano_checkpoint, bundle, "--only", SMALL, "--no-parity") == 130
    assert content(bundle) == before


RUN = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from doubles.faults import KILL, faulty_disk
from instantrt.cli import main
out, what = Path(sys.argv[2]), sys.argv[3]
if what == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    sys.exit(main(sys.argv[4:]))
with faulty_disk(out) as disk:
    class Seen(list):
        def append(self, operation):
            super().append(operation)
            if operation.startswith(what):
                import os, signal
                os.kill(os.getpid(), signal.SIGKILL)
    disk.seen = Seen()
    main(sys.argv[4:])
"""


def run(what: str, checkpoint: Path, out: Path) -> subprocess.CompletedProcess[str]:
    arguments = ["export", str(checkpoint), "--out", str(out), *SIZES, "--only", SMALL, "--no-parity"]
    command = [sys.executable, "-c", RUN, str(Path(__file__).parents[1]), str(out), what, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_real_write_that_fails_half_way_is_one_message_and_changes_nothing(
    nano_checkpoint: Path, bundle: Path
) -> None:
    """Files of the process may grow to 100 kB only."""
    before = content(bundle)
    done = run("limit", nano_checkpoint, bundle)
    assert done.returncode == 1, done.stderr
    assert f"{SMALL}.onnx cannot be written\nFound: {os.strerror(27)}" in done.stderr  # EFBIG
    assert "Traceback" not in done.stderr
    assert content(bundle) == before


def test_a_killed_export_changes_nothing_and_the_next_one_cleans_up(nano_checkpoint: Path, bundle: Path) -> None:
    before = content(bundle)
    done = run("os.rename", nano_checkpoint, bundle)  # everything is written, nothing is published
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = content(bundle)
    assert before.items() < left.items()
    assert any(name.startswith("export-") and name.endswith(f"{SMALL}.onnx") for name in left)
    verified(bundle)
    assert export(nano_checkpoint, bundle, "--only", SMALL, "--no-parity") == 0
    assert content(bundle).keys() == before.keys()
    verified(bundle)
