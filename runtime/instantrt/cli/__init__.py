"""The `instantrt` command line: finds the commands of all packages and runs one of them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Any

from instantrt.cli.command import Command, CommandGroup, escape_unprintable, run_to_status
from instantrt.version import __version__

ENTRY_POINTS = "instantrt.commands"
# In the help; others follow by name.
ORDER = ("export", "build", "inspect", "generate", "serve", "keys", "bench", "doctor")


def load_commands() -> list[Command[Any] | CommandGroup]:
    """The commands that installed packages declare."""
    commands = [entry.load() for entry in entry_points(group=ENTRY_POINTS)]
    rank = {name: place for place, name in enumerate(ORDER)}
    return sorted(commands, key=lambda command: (rank.get(command.name, len(rank)), command.name))


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    parser = argparse.ArgumentParser(prog="instantrt", description="InstantID as compiled engines")
    parser.add_argument("--version", action="version", version=f"instantrt {__version__}")
    below = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in load_commands():
        command.declare(below.add_parser(command.name, help=command.help, description=command.help))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and give its exit status; a user's mistake is one message on stderr."""
    escape_unprintable()  # for usage errors as well, which repeat what was typed
    arguments = build_parser().parse_args(argv)
    command: Command[Any] = arguments.selected
    return run_to_status(arguments.prog, lambda: command.execute(command.parsed(arguments)))
