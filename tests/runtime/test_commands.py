"""The command line: how commands are found, declared and run, and what they show while they run."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from importlib.metadata import entry_points
from typing import Any

import pytest

from instantrt.cli import ENTRY_POINTS, build_parser, load_commands, main
from instantrt.cli.command import Command, CommandGroup, ExitStatus, ProgressDisplay
from instantrt.errors import MissingExtraError, RequestError

HEAVY = (
    "torch",
    "diffusers",
    "transformers",
    "onnx",
    "onnxruntime",
    "openvino",
    "tensorrt",
    "tensorrt_rtx_bindings",
    "cuda",
)


def all_commands() -> list[Command[Any]]:
    groups = [c.commands if isinstance(c, CommandGroup) else (c,) for c in load_commands()]
    return [command for group in groups for command in group]


@dataclass(frozen=True)
class Options:
    words: tuple[str, ...]
    loud: bool = False


def command(run: Callable[[Options], ExitStatus], load: Callable[[], Any] | None = None) -> Command[Options]:
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("words", nargs="+")
        parser.add_argument("--loud", action="store_true")

    return Command("say", "say it", Options, add_arguments, load or (lambda: run), lambda options: "cpu")


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[Command[Any]], None]:
    return lambda one: monkeypatch.setattr("instantrt.cli.load_commands", lambda: [one])


def test_the_commands_of_all_packages_are_found_in_the_order_in_which_they_are_used() -> None:
    names = [command.name for command in load_commands()]
    assert names == ["export", "build", "inspect", "generate", "serve", "keys", "bench", "doctor"]


@pytest.mark.parametrize("module", sorted({entry.module for entry in entry_points(group=ENTRY_POINTS)}))
def test_declaring_a_command_imports_nothing_heavy(module: str) -> None:
    code = f"""
import argparse, sys
for name in {HEAVY!r}:
    sys.modules[name] = None
from importlib import import_module
for value in vars(import_module({module!r})).values():
    if type(value).__name__ in ("Command", "CommandGroup"):
        value.declare(argparse.ArgumentParser())
        print(value.name)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_help_needs_not_even_numpy() -> None:
    code = "import sys; sys.modules['numpy'] = sys.modules['cv2'] = sys.modules['PIL'] = None\n"
    code += "from instantrt.cli import main; main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "generate" in done.stdout


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: command.name)
def test_every_argument_is_a_field_of_the_options_and_the_other_way_round(command: Command[Any]) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    destinations = {action.dest for action in parser._actions} - {"help"}
    assert destinations == {field.name for field in fields(command.options)}


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: command.name)
def test_defaults_are_said_by_the_options_alone(command: Command[Any]) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    assert not [action.dest for action in parser._actions if action.default not in (None, False, argparse.SUPPRESS)]


def test_options_reach_the_command_typed(only: Callable[[Command[Any]], None]) -> None:
    received: list[Options] = []

    def run(options: Options) -> ExitStatus:
        received.append(options)
        return ExitStatus.DONE

    only(command(run))
    assert main(["say", "a", "b", "--loud"]) == 0
    assert received == [Options(["a", "b"], loud=True)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (RequestError("too loud", hint="whisper"), 1, "instantrt say: too loud\nTo do: whisper\n"),
        (KeyboardInterrupt(), 130, "instantrt say: interrupted\n"),
    ],
)
def test_mistakes_and_interrupts_are_one_message(
    error: BaseException,
    status: int,
    message: str,
    only: Callable[[Command[Any]], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(options: Options) -> ExitStatus:
        raise error

    only(command(run))
    assert main(["say", "x"]) == status
    assert capsys.readouterr().err == message


def test_a_bug_surfaces_as_a_bug(only: Callable[[Command[Any]], None]) -> None:
    def run(options: Options) -> ExitStatus:
        raise ZeroDivisionError

    only(command(run))
    with pytest.raises(ZeroDivisionError):
        main(["say", "x"])


def test_a_package_that_is_not_installed_names_the_extra() -> None:
    def load() -> Any:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    with pytest.raises(MissingExtraError, match=r'pip install "instantrt\[cpu\]"'):
        command(lambda _: ExitStatus.DONE, load).execute(Options(("x",)))


def test_a_broken_module_of_our_own_is_no_missing_extra() -> None:
    def load() -> Any:
        raise ModuleNotFoundError("No module named 'instantrt_export.gone'", name="instantrt_export.gone")

    with pytest.raises(ModuleNotFoundError):
        command(lambda _: ExitStatus.DONE, load).execute(Options(("x",)))


def test_unknown_arguments_are_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        build_parser().parse_args(["doctor", "--halves"])
    assert ended.value.code == ExitStatus.USAGE
    assert "--halves" in capsys.readouterr().err


def test_progress_is_silent_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as display:
        display.task("denoising")(1, 2)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("rich", [True, False])
def test_progress_is_shown_on_a_terminal_with_and_without_rich(
    rich: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if rich:
        pytest.importorskip("rich")
    else:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with ProgressDisplay() as display:
        display.show("unet", 1, 4, "tactics")
        display.task("denoising")(2, 2)
    shown = capsys.readouterr().err
    assert "denoising" in shown
    assert ("100%" in shown) != rich
