"""docs/files.md: one line per source file, from its docstring. `python tests/file_guide.py` writes it."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "files.md"
INTRODUCTION = """\
# Every source file in one line

Written by `python tests/file_guide.py` from the first line of each file's docstring. A package imports only those that
stand above it here.
"""
PACKAGES = {
    "runtime/instantrt": "Bundle to picture. The main path is `pipeline.py`, `prepare.py`, `conditioning/`, "
    "`denoise.py`, `engine/`, `device/`.",
    "runtime/instantrt_serve": "Pictures over HTTP.",
    "engines/instantrt_engines": "ONNX to plan.",
    "export/instantrt_export": "Checkpoint to ONNX.",
    "export/instantrt_nano": "Makes and trains nano, and carries its files.",
    "bench/instantrt_bench": "Runtime against reference.",
}


def guide() -> str:
    """The guide as Markdown: a heading per package, a line per file."""
    return "\n".join([INTRODUCTION, *(_package(folder, about) for folder, about in PACKAGES.items())])


def _package(folder: str, about: str) -> str:
    root = ROOT / folder
    files = [path for path in sorted(root.rglob("*.py"), key=_order) if _about(path)]
    lines = [f"| [`{path.relative_to(root)}`](../{path.relative_to(ROOT)}) | {_about(path)} |" for path in files]
    return "\n".join([f"## `{folder}`\n", f"{about}\n", "| file | what it is |", "|---|---|", *lines, ""])


def _order(path: Path) -> tuple[str, str]:
    return path.parent.as_posix(), path.name


def _about(path: Path) -> str:
    """The first line of a file's docstring, or "" for an empty ``__init__.py``."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return docstring.partition("\n")[0].rstrip() if docstring else ""


if __name__ == "__main__":
    GUIDE.write_text(guide(), encoding="utf-8")
