"""The repository itself: its README is short, its links lead somewhere, and its files are small enough to read."""

from __future__ import annotations

import ast
import re
from itertools import chain
from pathlib import Path

import pytest
import yaml

from file_guide import GUIDE, ROOT, guide

MAX_LINES = 500
SOURCES = ("runtime", "engines", "export", "bench")
MAX_README_LINES = 130
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "export").rglob("*.md")]
DOCUMENTS += (ROOT / "bench").rglob("*.md")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(document: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_file_guide_lists_every_file() -> None:
    assert GUIDE.read_text(encoding="utf-8") == guide(), "run `python tests/file_guide.py`"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    for link in LINK.findall(document.read_text(encoding="utf-8")):
        if not link.startswith(("https:", "http:")):
            path, _, anchor = link.partition("#")
            target = document.parent / path if path else document
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_pictures_in_the_docs_are_small() -> None:
    pictures = list((ROOT / "docs" / "images").iterdir())
    assert pictures
    assert all(path.stat().st_size < 150_000 for path in pictures)


def test_pre_commit_runs_what_make_check_runs() -> None:
    (recipe,) = re.findall(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    commands = [line.strip().replace("$(RUN)", ".venv/bin/python") for line in recipe.splitlines()]
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = chain.from_iterable(repository["hooks"] for repository in config["repos"])
    assert [hook["entry"] for hook in hooks] == [command.replace("$(VENV)", ".venv") for command in commands]


def test_source_files_are_short() -> None:
    sources = [f for folder in ("runtime", "engines", "export", "bench") for f in (ROOT / folder).rglob("*.py")]
    lengths = {str(f.relative_to(ROOT)): len(f.read_text(encoding="utf-8").splitlines()) for f in sources}
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_LINES}


def test_every_error_of_ours_says_what_was_found_and_what_to_do() -> None:
    """A cancelled request is no mistake; errors with a constructor of their own say it there."""
    trees = {f: ast.parse(f.read_text(encoding="utf-8")) for folder in SOURCES for f in (ROOT / folder).rglob("*.py")}
    nodes = [(file, node) for file, tree in trees.items() for node in ast.walk(tree)]
    ours = {"InstantRTError"}
    for _ in range(3):  # generations
        ours |= {n.name for _, n in nodes if isinstance(n, ast.ClassDef) and {ast.unparse(b) for b in n.bases} & ours}
    built = {n.name for _, n in nodes if isinstance(n, ast.ClassDef) and "__init__" in {ast_name(m) for m in n.body}}
    silent = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file, node in nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ours - built - {"CancelledError"}
        if not {"found", "hint"} <= {keyword.arg for keyword in node.keywords}
    ]
    assert len(ours) > 20
    assert not silent


def ast_name(node: ast.AST) -> str:
    return str(getattr(node, "name", ""))
