"""The repository itself: its README is up to date and its files are small enough to read."""

from __future__ import annotations

import re

from file_guide import README, ROOT, with_guide

MAX_LINES = 500


def test_the_file_guide_lists_every_file() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == with_guide(text), "run `python tests/file_guide.py`"


def test_the_readmes_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_source_files_are_short() -> None:
    sources = [f for folder in ("runtime", "engines", "export", "bench") for f in (ROOT / folder).rglob("*.py")]
    lengths = {str(f.relative_to(ROOT)): len(f.read_text(encoding="utf-8").splitlines()) for f in sources}
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_LINES}
