"""README and docs: their commands run as written, and every option, target, module, file and name in them exists."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from documents import (
    CODE,
    DOCUMENTS,
    Block,
    blocks_of,
    code_spans,
    commands_of,
    problem_of_command,
    problem_of_span,
    read,
    sources,
)
from file_guide import ROOT
from instantrt.cli import build_parser

LANGUAGES = {"sh", "python", "javascript", "json", "toml", "csv", "text"}


def id_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


def runnable(document: Path) -> list[Block]:
    return [block for block in blocks_of(read(document)) if block.runs]


def test_a_block_is_run_unless_the_comment_before_it_says_why_not() -> None:
    markdown = "```sh\nmake a\n```\n\n<!-- not run: needs a GPU -->\n```sh\nmake b\n```\n\nText.\n\n    indented\n"
    blocks = list(blocks_of(markdown))
    assert blocks == [
        Block(1, "sh", "make a\n", None),
        Block(6, "sh", "make b\n", "needs a GPU"),
        Block(12, "", "indented\n", None),
    ]
    assert [block.runs for block in blocks] == [True, False, False]


def test_commands_are_found_in_loops_on_long_lines_and_behind_others() -> None:
    script = 'for i in 1; do\n  (cd a && python -m b --c="$d/e")\ndone\ninstantrt h \'.[l]\' \\\n  --i "j k"   # "m\n'
    assert list(commands_of(script)) == [
        ["for", "i", "in", "1"],
        ["cd", "a"],
        ["python", "-m", "b", "--c=$d/e"],
        ["instantrt", "h", ".[l]", "--i", "j k"],
    ]


@pytest.mark.parametrize(
    ("span", "problem"),
    [
        ("instantrt build BUNDLE --halves 2", "instantrt build has no option --halves"),
        ("instantrt bench speed", "instantrt bench has no command speed"),
        ("make everything", "make has no target everything"),
        ("python -m instantrt_bench.everything", "there is no module instantrt_bench.everything"),
        ("--halves", "no command has an option --halves"),
        ("test_everything_at_once", "there is no test test_everything_at_once"),
        ("runtime/instantrt/prelude.py", "there is no file runtime/instantrt/prelude.py"),
        ("instantrt build BUNDLE --slots 1:1:4", None),
        ("make demo", None),
        ("pipeline.py", None),
    ],
)
def test_what_does_not_exist_is_noticed(span: str, problem: str | None) -> None:
    assert problem_of_span(span) == problem


@pytest.mark.parametrize("document", DOCUMENTS, ids=id_of)
def test_every_block_says_its_language_and_json_is_json(document: Path) -> None:
    for block in blocks_of(read(document)):
        assert block.language in LANGUAGES, f"{id_of(document)}:{block.line}"
        if block.language == "json":
            json.loads(block.text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=id_of)
def test_everything_named_in_a_sentence_exists(document: Path) -> None:
    problems = [problem for span in code_spans(read(document)) if (problem := problem_of_span(span))]
    assert not problems


@pytest.mark.parametrize("document", DOCUMENTS, ids=id_of)
def test_every_command_of_ours_is_one_that_its_parser_takes(document: Path) -> None:
    for block in blocks_of(read(document)):
        for words in commands_of(block.text) if block.language == "sh" else ():
            assert problem_of_command(words) is None, f"{id_of(document)}:{block.line}"
            if Path(words[0]).name == "instantrt":
                build_parser().parse_args(words[1:])


def test_every_name_that_contributors_are_sent_to_is_in_the_code() -> None:
    names = {span for span in code_spans(read(ROOT / "CONTRIBUTING.md")) if re.fullmatch(r"_?[A-Z]\w{3,}", span)}
    assert {"SAMPLERS", "TARGETS", "BUILDERS"} <= names
    assert not {name for name in names if not re.search(rf"\b{name}\b", sources(*CODE, "tests"))}


@pytest.fixture
def checkout(trained_bundle: Path, tmp_path: Path) -> Path:
    """A copy of this one with what the docs take for granted: nano's bundle, a bundle of one's own, and a photo."""
    from instantrt_bench.cases.portrait import portrait_jpeg

    folder = tmp_path / "checkout"
    left_out = shutil.ignore_patterns(".*", "out", "dist", "build", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, folder, ignore=left_out)
    shutil.copytree(trained_bundle, folder / "out" / "nano" / "bundle")
    (folder / "BUNDLE").symlink_to("out/nano/bundle")
    (folder / "photo.jpg").write_bytes(portrait_jpeg())
    return folder


@pytest.fixture
def environment(trained_bundle: Path, tmp_path: Path) -> dict[str, str]:
    """This Python's scripts are first on the path, and nano has been exported to the user's cache."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "instantrt").symlink_to(trained_bundle.parent)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    pip_cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pip"
    return {"PIP_CACHE_DIR": str(pip_cache)} | os.environ | {"PATH": path, "XDG_CACHE_HOME": str(cache)}


@pytest.mark.parametrize("document", [document for document in DOCUMENTS if runnable(document)], ids=id_of)
def test_commands_run_as_written(document: Path, checkout: Path, environment: dict[str, str]) -> None:
    for block in runnable(document):
        shell = ["bash", "-euo", "pipefail", "-c"] if block.language == "sh" else ["python", "-c"]
        done = subprocess.run([*shell, block.text], cwd=checkout, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{id_of(document)}:{block.line}\n{block.text}{done.stdout}{done.stderr}"
