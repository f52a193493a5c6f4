"""What can be checked cheaply is checked before anything slow, in every command, before what does it is loaded."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from instantrt.cli import load_commands, main
from instantrt.cli.command import Command, CommandGroup

BUNDLE = ("--before-python", sys.executable, "--before-bundle", "bundle")
GATE = ("bench", "gate", *BUNDLE, "--after-python", sys.executable, "--after-bundle", "bundle")
GENERATE = ("generate", "nano", "--face", "photo.png", "--prompt", "a person", "--out", "a.png")
CASES = ("bundle", "--checkpoint", "checkpoint")
UNWRITABLE = "file/a.png"  # below a file

MISTAKES = [
    ((*GENERATE, "--face", "nofile.jpg"), "the photo does not exist"),
    ((*GENERATE, "--pose", "nofile.jpg"), "the photo does not exist"),
    ((*GENERATE, "--face", "file"), "the photo is empty"),
    ((*GENERATE, "--out", UNWRITABLE), "file/a.png cannot be written"),
    ((*GENERATE, "--out", "a.txt"), "cannot tell a picture format"),
    ((*GENERATE, "--out", "photo.png"), "photo.png would be replaced"),
    ((*GENERATE, "--samples", "2", "--out", UNWRITABLE), "file/a-1.png cannot be written"),
    ((*GENERATE, "--steps", "3"), "steps must be from 4 to 100"),
    ((*GENERATE, "--size", "100x100"), "multiples of 64"),
    ((*GENERATE, "--size", "999999999x64"), "width must be from 64 to 16384"),
    ((*GENERATE, "--guidance-scale", "nan"), "guidance_scale must be a number"),
    ((*GENERATE, "--style", "Cubism"), "unknown style"),
    ((*GENERATE, "--sampler", "plms"), "unknown sampler"),
    ((*GENERATE, "--prompt", "caf\udce9"), "prompt is not Unicode text"),
    ((*GENERATE, "--prompt", " "), "the prompt is empty"),
    ((*GENERATE, "--threads", "0"), "threads must be from 1"),
    ((*GENERATE, "--device", "0"), "onnxruntime has no option device"),
    ((*GENERATE, "--precision-hint", "bf16"), "onnxruntime has no option precision_hint"),
    ((*GENERATE, "--target", "openvino", "--residency", "auto"), "openvino has no residency auto"),
    ((*GENERATE, "--target", "tensorflow"), "unknown target"),
    (("export", "checkpoint", "--out", "file"), "file cannot be written"),
    (("build", "bundle", "--target", "tensorrt", "--log", "."), ". cannot be written"),
    (("build", "bundle", "--target", "tensorrt", "--timing-cache", UNWRITABLE), "file/a.png cannot be written"),
    (("build", "bundle", "--target", "tensorrt", "--log", "a", "--timing-cache", "a"), "a would be replaced"),
    (("build", "file", "--target", "tensorrt"), "file/plans/tensorrt cannot be written"),
    (("bench", "latency", "bundle", "--out", UNWRITABLE), "file/a.png cannot be written"),
    (("bench", "latency", "bundle", "--history", "file"), "file cannot be written"),
    (("bench", "latency", "bundle", "--photo", "nofile.jpg"), "the photo does not exist"),
    (("bench", "latency", "bundle", "--photo", "photo.png", "--out", "photo.png"), "photo.png would be replaced"),
    (("bench", "fidelity", *CASES, "--out", UNWRITABLE), "file/a.png cannot be written"),
    (("bench", "fidelity", *CASES, "--target", "tensorflow"), "unknown target"),
    (("bench", "identity", *CASES, "--out", UNWRITABLE), "file/a.png cannot be written"),
    (("bench", "identity", *CASES, "--target", "tensorflow"), "unknown target"),
    ((*GATE, "--out", "file"), "file cannot be written"),
    ((*GATE, "--after-python", "nopython"), "no such interpreter"),
    ((*GATE, "--after-bundle", "file"), "file is not a bundle"),
    (("bench", "report"), "a report needs results"),
    (("bench", "report", "file", "--out", UNWRITABLE), "file/a.png cannot be written"),
    (("bench", "report", "file", "--out", "file"), "file would be replaced"),
    (("bench", "history", "file", "--add", "photo.png"), "file cannot be written"),
    (("serve", "bundle", "--config", "nofile.toml"), "nofile.toml cannot be read"),
    (("serve", "bundle", "--no-keys", "--host", "0.0.0.0"), "without keys only this machine may be served"),
    (("serve", "bundle", "--database", "sqlite:///file/a.db"), "file/a.db cannot be written"),
    (("keys", "create", "me", "--database", "sqlite:///file/a.db"), "file/a.db cannot be written"),
    (("keys", "grant", "id", "1", "--database", "sqlite:///file/a.db"), "file/a.db cannot be written"),
    (("keys", "revoke", "id", "--database", "sqlite:///file/a.db"), "file/a.db cannot be written"),
]

GROUPS = ("bench", "keys")
QUICK = {"inspect", "doctor", "compare", "list"}  # these write nothing and run no network


def refuse() -> NoReturn:
    raise AssertionError("loaded before the mistake was found")


def unloadable(command: Command[Any] | CommandGroup) -> Command[Any] | CommandGroup:
    if isinstance(command, CommandGroup):
        return dataclasses.replace(command, commands=tuple(map(unloadable, command.commands)))  # type: ignore[arg-type]
    return dataclasses.replace(command, load=refuse)


def contents(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(("argv", "message"), MISTAKES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_mistake_is_found_before_the_command_is_loaded(
    argv: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    astronaut: npt.NDArray[np.uint8],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(astronaut).save("photo.png")
    Path("file").touch()
    Path("bundle").mkdir()
    Path("bundle/bundle.json").touch()
    before = contents(tmp_path)
    commands = [unloadable(command) for command in load_commands()]
    monkeypatch.setattr("instantrt.cli.load_commands", lambda: commands)
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "\nTo do: " in error
    assert "exporting" not in error
    assert contents(tmp_path) == before


def test_every_command_that_writes_or_runs_for_long_is_among_them() -> None:
    groups = [c.commands if isinstance(c, CommandGroup) else (c,) for c in load_commands()]
    names = {command.name for group in groups for command in group}
    assert {argv[1] if argv[0] in GROUPS else argv[0] for argv, _ in MISTAKES} == names - QUICK
