"""The `instantrt` command line. Heavier packages are imported by the command that needs them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from instantrt.cli import bench, build, doctor, export, generate, inspect
from instantrt.errors import InstantRTError

COMMANDS = {
    "export": export,
    "build": build,
    "inspect": inspect,
    "generate": generate,
    "bench": bench,
    "doctor": doctor,
}
EXIT_USER_ERROR = 1
EXIT_INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """The parser with all commands."""
    parser = argparse.ArgumentParser(prog="instantrt", description="InstantID as compiled engines")
    parser.add_argument("--version", action="version", version=f"instantrt {version('instantrt')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=module.HELP, description=module.HELP))
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns 0 or the command's own status, 1 for a user's mistake (its message on stderr), 130 when
    interrupted."""
    args = build_parser().parse_args(argv)
    try:
        status = COMMANDS[args.command].run(args)
    except InstantRTError as error:
        print(f"instantrt {args.command}: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"instantrt {args.command}: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return status or 0
