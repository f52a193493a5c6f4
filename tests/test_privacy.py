"""docs/privacy.md: nothing is sent, and nothing but our own cache is kept below the home folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from doubles.processes import environment, instantrt
from doubles.result_files import latency_results
from instantrt.quiet import VARIABLES

PACKAGES = (
    "instantrt",
    "instantrt_serve",
    "instantrt_engines",
    "instantrt_export",
    "instantrt_nano",
    "instantrt_bench",
)
CPU_TARGETS = ("onnxruntime", "openvino")
GENERATE = ("--prompt", "a person", "--steps", "4", "--size", "64x64", "--threads", "1", "--out", "a.png")


@pytest.fixture
def fresh(tmp_path: Path, astronaut: npt.NDArray[np.uint8]) -> Path:
    """A folder to be in, with a photo; beside it a home and a temporary folder in which nothing is."""
    for name in ("home", "tmp", "work"):
        (tmp_path / name).mkdir()
    Image.fromarray(astronaut).save(tmp_path / "work/photo.jpg")
    return tmp_path


def run(fresh: Path, *command: Any) -> None:
    """Run a command in that folder; it must succeed."""
    variables = environment(HOME=str(fresh / "home"), TMPDIR=str(fresh / "tmp"))
    done = subprocess.run(command, cwd=fresh / "work", env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("target", CPU_TARGETS)
def test_generating_leaves_nothing_at_home_but_our_own_cache(fresh: Path, trained_bundle: Path, target: str) -> None:
    cache = fresh / "home/.cache/instantrt"
    shutil.copytree(trained_bundle, cache / trained_bundle.name, copy_function=os.link)  # as if exported before
    before = files_below(fresh / "home")
    run(fresh, *instantrt("generate", "nano", "--face", "photo.jpg", *GENERATE, "--target", target))
    assert files_below(fresh / "home") == before
    assert files_below(fresh / "tmp") == []
    assert files_below(fresh / "work") == ["a.png", "photo.jpg"]


def test_exporting_leaves_nothing_at_home(fresh: Path, nano_checkpoint: Path) -> None:
    """One network, and all that is loaded for it: torch, diffusers, transformers, the hub's client, ONNX Runtime."""
    run(fresh, *instantrt("export", str(nano_checkpoint), "--out", "bundle", "--only", "control_embedding"))
    assert files_below(fresh / "home") == []
    assert files_below(fresh / "tmp") == []


def test_a_report_keeps_the_list_of_fonts_in_our_own_cache(fresh: Path) -> None:
    latency_results(np.random.default_rng()).write(fresh / "work/latency.json")
    run(fresh, *instantrt("bench", "report", "latency.json", "--out", "report.html"))
    assert all(name.startswith(".cache/instantrt/matplotlib/") for name in files_below(fresh / "home"))
    assert files_below(fresh / "tmp") == []


def network_calls(fresh: Path, *command: Any) -> list[str]:
    """Every call of a command and of its children to the system that has to do with a network."""
    log = fresh / "calls"
    run(fresh, "strace", "--follow-forks", "--seccomp-bpf", "--trace=network", f"--output={log}", *command)
    return [line for line in log.read_text().splitlines() if "(" in line]


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("target", CPU_TARGETS)
def test_generating_opens_no_connection(fresh: Path, nano_bundle: Path, target: str) -> None:
    assert network_calls(fresh, sys.executable, "-c", "import socket; socket.socket()"), "calls are seen"
    generate = instantrt("generate", str(nano_bundle), "--face", "photo.jpg", *GENERATE, "--target", target)
    assert network_calls(fresh, *generate) == []


def test_openvinos_telemetry_is_hidden_from_it_alone(fresh: Path) -> None:
    """It has no variable. Who imports it gets it, before and after."""
    code = """
from instantrt.engine.openvino import import_openvino
import sys
assert "openvino" not in sys.modules
openvino = import_openvino()
assert "openvino_telemetry" not in sys.modules
assert openvino.tools.ovc.telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"
import openvino_telemetry
from instantrt.quiet import hidden
with hidden("openvino_telemetry"):
    try:
        import openvino_telemetry.main
    except ImportError:
        hid = True
assert hid
assert sys.modules["openvino_telemetry"] is openvino_telemetry
"""
    run(fresh, sys.executable, "-c", code)
    assert files_below(fresh / "home") == []


@pytest.mark.parametrize("package", PACKAGES)
def test_libraries_are_told_to_be_quiet_before_they_can_be_imported(package: str) -> None:
    code = f"""
import os, sys
import {package}
print([os.environ.get(name) for name in {list(VARIABLES)}])
print([name for name in ("onnxruntime", "huggingface_hub", "matplotlib") if name in sys.modules])
"""
    said = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert said.stdout == f"{list(VARIABLES.values())}\n[]\n"


def test_who_asks_for_telemetry_gets_it() -> None:
    code = "import instantrt, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    variables = environment(ORT_DISABLE_TELEMETRY="0")
    said = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert said.stdout == "0\n"


def test_the_page_names_every_variable() -> None:
    page = (Path(__file__).parents[1] / "docs/privacy.md").read_text(encoding="utf-8")
    assert all(name in page for name in (*VARIABLES, "MPLCONFIGDIR"))
