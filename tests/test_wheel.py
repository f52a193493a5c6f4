"""The wheel alone, in a clean environment with only the [cpu] extra, makes a picture."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "instantrt",
    "instantrt_serve",
    "instantrt_engines",
    "instantrt_export",
    "instantrt_nano",
    "instantrt_bench",
}
HEAVY = {"torch", "diffusers", "transformers", "onnx", "onnxscript", "scikit-image", "matplotlib", "jinja2", "rich"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def lean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lean")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, f"{wheel}[cpu]"], check=True)
    return python


def test_the_wheel_holds_the_six_packages_with_their_types_and_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert {"instantrt_serve/page/app.js", "instantrt_serve/accounts/migrations/env.py"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if "test" in name.rpartition("/")[2]]


def test_the_index_page_shows_the_readme_without_what_only_the_repository_can_resolve(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    message = message_from_bytes(archive.read(metadata))
    assert message["Description-Content-Type"] == "text/markdown"
    page, readme = message.get_payload(), (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert links
    assert all(link.startswith("https://") for link in links)
    assert "![" not in page
    assert "make demo`. Photo" not in page
    assert re.findall(r"^#.*", page, re.MULTILINE) == re.findall(r"^#.*", readme, re.MULTILINE)
    assert "design notes" in page


def test_the_lean_environment_generates_a_picture(
    lean_python: Path, nano_bundle: Path, astronaut: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    photo, out = tmp_path / "photo.png", tmp_path / "picture.png"
    Image.fromarray(astronaut).save(photo)
    instantrt = lean_python.with_name("instantrt")
    command = [instantrt, "generate", nano_bundle, "--face", photo, "--prompt", "portrait photo", "--steps", "4"]
    done = subprocess.run([*command, "--seed", "7", "--out", out, "--json"], check=True, capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert report["seed"] == 7
    with Image.open(out) as picture:
        assert picture.size == (128, 128)
        assert np.asarray(picture).std() > 1


def test_nothing_heavy_is_installed_and_the_size_is_reported(
    lean_python: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = subprocess.run([lean_python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True)
    installed = {package["name"].lower() for package in json.loads(listing.stdout)}
    assert not installed & HEAVY
    packages = next(lean_python.parents[1].glob("lib/python*/site-packages"))
    skipped = ("pip", "setuptools")
    files = [f for f in packages.rglob("*") if f.is_file() and not f.relative_to(packages).parts[0].startswith(skipped)]
    megabytes = sum(f.stat().st_size for f in files) / 1e6
    with capsys.disabled():
        print(f"\nlean install: {megabytes:.0f} MB in {len(installed)} packages")
    assert megabytes < 500


def test_commands_that_need_more_say_which_extra_to_install(lean_python: Path, tmp_path: Path) -> None:
    instantrt = lean_python.with_name("instantrt")
    done = subprocess.run([instantrt, "export", tmp_path, "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'pip install "instantrt[export]"' in done.stderr
    assert "Traceback" not in done.stderr
    doctor = subprocess.run([instantrt, "doctor", "--json"], check=True, capture_output=True, text=True)
    abilities = {a["name"]: a["ready"] for a in json.loads(doctor.stdout)["abilities"]}
    assert abilities["generate on the CPU (onnxruntime)"] is True
    assert abilities["export checkpoints"] is False
