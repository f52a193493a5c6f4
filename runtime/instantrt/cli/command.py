"""What all commands share: how one is declared, exit statuses, progress, and JSON on stdout.

A command is an object in the package that does its work, named in the entry-point group ``instantrt.commands``.
Declaring it imports nothing heavy; what does the work is imported when the command runs.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from enum import IntEnum
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from instantrt.errors import InstantRTError, MissingExtraError

Options = TypeVar("Options")


class ExitStatus(IntEnum):
    """How a command ended."""

    DONE = 0
    USER_ERROR = 1  # a mistake of the user's; its message is on stderr
    USAGE = 2  # arguments that do not parse: argparse's own status
    MISSED = 3  # it ran, and a goal, gate or verdict was missed
    INTERRUPTED = 130


Run = Callable[[Options], ExitStatus]


@dataclass(frozen=True)
class Command(Generic[Options]):
    """One command.

    Args:
        name: what users type.
        help: one line.
        options: a dataclass with a field for each argument's destination; its defaults are the arguments' defaults.
        add_arguments: declares the arguments.
        load: imports what does the work and gives it; it gets an ``options`` object.
        needs_extra: the extra of InstantRT that installs what ``load`` imports.
        check: raises the mistakes that show without what ``load`` imports: where the command could not write what it is
            asked for, photos that are missing. It runs first, so that nobody waits for a mistake that is cheap to find.
    """

    name: str
    help: str
    options: type[Options]
    add_arguments: Callable[[argparse.ArgumentParser], None]
    load: Callable[[], Run[Options]]
    needs_extra: Callable[[Options], str]
    check: Callable[[Options], None] = lambda _: None

    def declare(self, parser: argparse.ArgumentParser) -> None:
        """Put the arguments on ``parser``, and this command as ``selected`` into what it parses."""
        self.add_arguments(parser)
        defaults = {field.name: field.default for field in fields(self.options) if field.default is not MISSING}  # type: ignore[arg-type]
        parser.set_defaults(selected=self, prog=parser.prog, **defaults)

    def parsed(self, arguments: argparse.Namespace) -> Options:
        """The typed options of parsed arguments."""
        return self.options(**{field.name: getattr(arguments, field.name) for field in fields(self.options)})  # type: ignore[arg-type]

    def execute(self, options: Options) -> ExitStatus:
        """Run the command.

        Raises:
            MissingExtraError: packages that it needs are not installed.
            InstantRTError: the user's mistake.
        """
        try:
            self.check(options)
            run = self.load()
        except ImportError as error:
            if error.name is None or error.name.partition(".")[0].startswith("instantrt"):
                raise  # not an absent extra: a module of our own is broken
            raise MissingExtraError(f"`instantrt {self.name}`", self.needs_extra(options), str(error)) from error
        return run(options)


@dataclass(frozen=True)
class CommandGroup:
    """Commands under a common name, as in ``instantrt bench latency``."""

    name: str
    help: str
    commands: tuple[Command[Any], ...]

    def declare(self, parser: argparse.ArgumentParser) -> None:
        """Put the commands below ``parser``."""
        below = parser.add_subparsers(required=True, metavar="COMMAND")
        for command in self.commands:
            command.declare(below.add_parser(command.name, help=command.help, description=command.help))


def run_to_status(program: str, run: Callable[[], int]) -> int:
    """The exit status that ``run`` gives; a user's mistake is one message on stderr, and an interrupt another.

    Args:
        program: named in the messages.
        run: does the work and gives an :class:`ExitStatus`.
    """
    escape_unprintable()
    try:
        status = run()
    except BrokenPipeError:
        if not _reader_is_gone():
            raise
        return ExitStatus.USER_ERROR
    except InstantRTError as error:
        sys.stderr.write(f"{program}: {error}\n")
        return ExitStatus.USER_ERROR
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted\n")
        return ExitStatus.INTERRUPTED
    return ExitStatus.USER_ERROR if _reader_is_gone() else status


def escape_unprintable() -> None:
    """Names of files may hold any bytes, and a terminal may have few characters; neither ends a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _reader_is_gone() -> bool:
    """Whether nobody reads our output any more, as after `| head`; nothing is said about it then."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return True
    return False


def print_json(data: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(data, indent=1) + "\n")


class _Display(Protocol):
    def show(self, task: str, done: float, total: float, note: str) -> None:
        """Show how far a task is."""

    def close(self) -> None:
        """Leave the terminal as it should be."""


class ProgressDisplay:
    """Progress on stderr: bars where rich is installed, a plain line otherwise, nothing in a pipe.

    A context manager; what runs inside may write whole lines to stdout.
    """

    def __init__(self) -> None:
        self._display: _Display | None = None

    def __enter__(self) -> ProgressDisplay:
        if sys.stderr.isatty():
            try:
                self._display = _Bars()
            except ImportError:
                self._display = _Line()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.close()

    def show(self, task: str, done: float, total: float, note: str = "") -> None:
        """Show that ``done`` of ``total`` is done of the task of that name, which starts with the first call."""
        if self._display is not None:
            self._display.show(task, done, total, note)

    def task(self, name: str) -> Callable[[float, float], None]:
        """:meth:`show` for one task, to hand to what reports (done, total)."""
        return lambda done, total: self.show(name, done, total)


class _Bars:
    """rich's bars, one per task; a task is finished when the next one starts."""

    NOTE_COLUMNS = 40

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description:<18}"), BarColumn(), TextColumn("{task.fields[note]}"))
        self._progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
        self._tasks: dict[str, Any] = {}
        self._progress.start()

    def show(self, task: str, done: float, total: float, note: str) -> None:
        if task not in self._tasks:
            self._finish()
            self._tasks[task] = self._progress.add_task(task, total=total, note="")
        self._progress.update(self._tasks[task], completed=done, total=total, note=note[: self.NOTE_COLUMNS])

    def close(self) -> None:
        self._progress.stop()

    def _finish(self) -> None:
        for task in self._progress.tasks:
            self._progress.update(task.id, completed=task.total, note="")


class _Line:
    """One line that is redrawn."""

    def __init__(self) -> None:
        self._open = False

    def show(self, task: str, done: float, total: float, note: str) -> None:
        self._open = done < total
        text = f"{task} {done / total if total else 1:.0%} {note}".rstrip()
        sys.stderr.write(f"\r\033[K{text}" + ("" if self._open else "\n"))
        sys.stderr.flush()

    def close(self) -> None:
        if self._open:
            sys.stderr.write("\n")
