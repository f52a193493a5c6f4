"""Imports point one way: bench -> nano -> export -> engines -> runtime; the runtime needs no training framework."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["instantrt", "instantrt_engines", "instantrt_export", "instantrt_nano", "instantrt_bench"]
FOLDERS = dict(zip(ORDER, ["runtime", "engines", "export", "export", "bench"], strict=True))
RUNTIME_DEPENDENCIES = {"numpy", "PIL", "cv2", "tokenizers"}
VENDOR = {"onnxruntime", "cuda", "tensorrt", "tensorrt_rtx_bindings", "nvtx"}


def imports_of(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, function bodies included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            found.add((node.module or "").partition(".")[0])
    return found


def files_of(package: str) -> list[Path]:
    files = sorted((ROOT / FOLDERS[package] / package).rglob("*.py"))
    assert files
    return files


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_only_what_stands_below_it(package: str) -> None:
    above = set(ORDER[ORDER.index(package) + 1 :])
    # The command line names heavier packages lazily; DESIGN puts it in the runtime on purpose.
    files = [f for f in files_of(package) if "cli" not in f.parts]
    wrong = {str(f.relative_to(ROOT)): imports_of(f) & above for f in files if imports_of(f) & above}
    assert not wrong


def test_the_runtime_depends_on_four_packages_and_vendors_stay_in_engine_and_device() -> None:
    for path in files_of("instantrt"):
        foreign = imports_of(path) - set(sys.stdlib_module_names) - {"instantrt", *RUNTIME_DEPENDENCIES}
        if "cli" in path.parts:
            foreign -= set(ORDER)
        if {"engine", "device"} & set(path.parts):
            foreign -= VENDOR
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"
