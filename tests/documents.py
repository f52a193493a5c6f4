"""What README and docs hold, and whether what they name exists: blocks of code, their commands, code in sentences.

A fenced block of ``sh`` or ``python`` is run by a test unless a comment ``<!-- not run: REASON -->`` stands before it.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from markdown_it import MarkdownIt

from file_guide import GUIDE, ROOT
from instantrt.cli import build_parser

DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(path for path in (ROOT / "docs").glob("*.md") if path != GUIDE)]
NOT_RUN = re.compile(r"<!-- not run: (.+) -->\n")
SHELL = {"&&", "||", ";", "|", "(", ")", "do", "done", "then", "fi"}  # words that end a command
CODE = ("runtime", "engines", "export", "bench", "tests/doubles")
# Named in the docs, and no part of this repository.
OF_OTHERS = ("demo/", "Tensorrt_Build/", "infer_trt.py", "pipeline_stable", "--use-cuda-graph", "--cuda-graph-trace")


@dataclass(frozen=True)
class Block:
    """One block of code; ``reason`` says why it is not run, None if it is."""

    line: int
    language: str
    text: str
    reason: str | None

    @property
    def runs(self) -> bool:
        return self.language in ("sh", "python") and self.reason is None


@cache
def read(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def blocks_of(markdown: str) -> Iterator[Block]:
    tokens = MarkdownIt().parse(markdown)
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type in ("fence", "code_block"):
            marker = NOT_RUN.fullmatch(before.content) if before is not None and before.type == "html_block" else None
            yield Block(token.map[0] + 1, token.info, token.content, marker[1] if marker else None)


def code_spans(markdown: str) -> Iterator[str]:
    """Code inside sentences and tables."""
    for token in MarkdownIt("gfm-like", {"linkify": False}).parse(markdown):
        yield from (" ".join(child.content.split()) for child in token.children or () if child.type == "code_inline")


def commands_of(script: str) -> Iterator[list[str]]:
    """The words of every command of a shell script."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();&|")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in SHELL:
                words.append(word)
            elif words:
                yield words
                words = []


def problem_of_command(words: list[str]) -> str | None:
    """The target, module, subcommand or option that does not exist; None for a command of somebody else's."""
    program = Path(words[0]).name
    if program == "make":
        unknown = sorted({word for word in words[1:] if "=" not in word} - make_targets())
        return f"make has no target {unknown[0]}" if unknown else None
    if program.startswith("python") and words[1:2] == ["-m"] and words[2] not in ("venv", "pytest"):
        return None if find_spec(words[2]) else f"there is no module {words[2]}"
    return problem_of_options(words[1:]) if program == "instantrt" else None


def problem_of_options(words: list[str]) -> str | None:
    """The subcommand or option of `instantrt` that does not exist; what a command requires may be left out."""
    parser = build_parser()
    for word in words:
        commands = [a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if word.startswith("--") and word not in parser._option_string_actions:
            return f"{parser.prog} has no option {word}"
        if commands and not word.startswith("--"):
            if word not in commands[0]:
                return f"{parser.prog} has no command {word}"
            parser = commands[0][word]
    return None


def problem_of_span(span: str) -> str | None:
    """What a piece of code in a sentence names that does not exist. NAME stands for a name that is not given yet."""
    if span.startswith(OF_OTHERS) or "NAME" in span:
        return None
    if span.startswith(("instantrt ", "make ", "python -m ")):
        return problem_of_command(span.split())
    if span.startswith("--"):
        option = span.split()[0]
        spellings = {f'"{option}"', f'"{option.replace("--no-", "--")}"'}
        return None if any(one in sources(*CODE) for one in spellings) else f"no command has an option {option}"
    if re.fullmatch(r"test_\w+", span):
        return None if f"def {span}(" in sources("tests") else f"there is no test {span}"
    if re.fullmatch(r"[\w./-]+\.py|[\w.-]+/[\w./-]+\.(json|md|yml)", span) and not span.startswith("out/"):
        return None if any(span in path.as_posix() for path in files()) else f"there is no file {span}"
    return None


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][\w-]*):", read(ROOT / "Makefile"), re.MULTILINE))


@cache
def sources(*folders: str) -> str:
    return "\n".join(read(path) for folder in folders for path in (ROOT / folder).rglob("*.py"))


@cache
def files() -> list[Path]:
    folders = [ROOT / folder for folder in (*CODE, "tests", "docs", ".github")]
    return [*ROOT.glob("*.*"), *(path for folder in folders for path in folder.rglob("*.*"))]
