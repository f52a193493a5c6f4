"""Imports point one way: bench -> nano -> export -> engines -> runtime and serve -> runtime, which needs no torch."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {  # a package may import those that stand above it here
    "instantrt": "runtime",
    "instantrt_serve": "runtime",
    "instantrt_engines": "engines",
    "instantrt_export": "export",
    "instantrt_nano": "export",
    "instantrt_bench": "bench",
}
ORDER = list(FOLDERS)
RUNTIME_DEPENDENCIES = {"numpy", "PIL", "cv2", "tokenizers"}
VENDOR = {"onnxruntime", "openvino", "cuda", "tensorrt", "tensorrt_rtx_bindings", "nvtx"}
TERMINAL = {"rich"}  # shown by the command line's one progress display where it is installed


def imports_of(path: Path) -> set[str]:
    """Top-level packages that a file imports anywhere, function bodies included."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            packages.add((node.module or "").partition(".")[0])
    return packages


def files_of(package: str) -> list[Path]:
    files = sorted((ROOT / FOLDERS[package] / package).rglob("*.py"))
    assert files
    return files


@pytest.mark.parametrize("package", ORDER)
def test_a_package_imports_only_what_stands_below_it(package: str) -> None:
    above = set(ORDER[ORDER.index(package) + 1 :])
    wrong = {str(f.relative_to(ROOT)): imports_of(f) & above for f in files_of(package) if imports_of(f) & above}
    assert not wrong


@pytest.mark.parametrize("package", ["instantrt_engines", "instantrt_export", "instantrt_nano"])
def test_what_makes_bundles_does_not_know_of_serving(package: str) -> None:
    assert not [str(f) for f in files_of(package) if "instantrt_serve" in imports_of(f)]


@pytest.mark.parametrize("package", ORDER)
def test_no_file_names_a_package_above_it_in_a_text(package: str) -> None:
    """An import by name would be an arrow that the test above does not see."""
    above = ORDER[ORDER.index(package) + 1 :]
    for path in files_of(package):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        texts = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
        named = [n.value for n in texts if id(n) not in docstrings and n.value.startswith(tuple(above))]
        assert not named, f"{path.relative_to(ROOT)} names {named}"


def test_the_runtime_depends_on_four_packages_and_vendors_stay_in_engine_and_device() -> None:
    for path in files_of("instantrt"):
        foreign = imports_of(path) - set(sys.stdlib_module_names) - {"instantrt", *RUNTIME_DEPENDENCIES}
        if {"engine", "device"} & set(path.parts):
            foreign -= VENDOR
        if path.name == "command.py":
            foreign -= TERMINAL
        assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"
