"""The README's file guide: one line per source file, from its docstring. `python tests/file_guide.py` rewrites it."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
START, END = "<!-- file guide -->\n", "<!-- end of the file guide -->"
PACKAGES = {
    "runtime/instantrt": "bundle -> picture; the main path is pipeline -> conditioning -> denoise -> engine -> device",
    "export/instantrt_export": "checkpoint -> ONNX",
    "export/instantrt_nano": "makes and trains nano, and carries its files",
    "engines/instantrt_engines": "ONNX -> plan",
    "bench/instantrt_bench": "runtime against reference",
}


def guide() -> str:
    """The guide as Markdown: a heading per package, a line per file."""
    return "\n".join(_package(folder, about) for folder, about in PACKAGES.items())


def with_guide(readme: str) -> str:
    """``readme`` with everything between the two markers replaced by the guide."""
    before, _, rest = readme.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{guide()}\n{END}{after}"


def _package(folder: str, about: str) -> str:
    root = ROOT / folder
    files = [path for path in sorted(root.rglob("*.py"), key=_order) if _about(path)]
    lines = [f"| [`{path.relative_to(root)}`]({path.relative_to(ROOT)}) | {_about(path)} |" for path in files]
    return "\n".join([f"**`{folder}`** ({about})\n", "| file | what it is |", "|---|---|", *lines, ""])


def _order(path: Path) -> tuple[str, str]:
    return path.parent.as_posix(), path.name


def _about(path: Path) -> str:
    """The first line of a file's docstring, or "" for an empty ``__init__.py``."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return docstring.partition("\n")[0].rstrip() if docstring else ""


if __name__ == "__main__":
    README.write_text(with_guide(README.read_text(encoding="utf-8")), encoding="utf-8")
