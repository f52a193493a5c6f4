"""`instantrt bench`: measure, compare and report. The work is done by the bench package."""

from __future__ import annotations

import argparse
from importlib import import_module

from instantrt.cli import (
    bench_compare,
    bench_fidelity,
    bench_gate,
    bench_history,
    bench_identity,
    bench_latency,
    bench_report,
)
from instantrt.errors import MissingExtraError

HELP = "measure latency, fidelity and identity against the reference, and compare results"
COMMANDS = {
    "latency": bench_latency,
    "fidelity": bench_fidelity,
    "identity": bench_identity,
    "compare": bench_compare,
    "gate": bench_gate,
    "history": bench_history,
    "report": bench_report,
}
PACKAGE = "instantrt_bench"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the commands below `bench` and their arguments."""
    commands = parser.add_subparsers(dest="bench_command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=module.HELP, description=module.HELP))


def run(args: argparse.Namespace) -> int:
    """Hand over to ``run_NAME`` in ``instantrt_bench.commands.NAME``; returns its exit status."""
    name = args.bench_command
    try:
        module = import_module(f"{PACKAGE}.commands.{name}")
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith(f"{PACKAGE}."):
            raise  # not an absent extra: a module of our own is missing
        raise MissingExtraError(f"`instantrt bench {name}`", "bench", str(error)) from error
    return int(getattr(module, f"run_{name}")(args) or 0)
