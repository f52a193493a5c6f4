"""`instantrt build` and `instantrt inspect`. What does the work is imported when a command runs."""

from __future__ import annotations

from collections.abc import Callable

from instantrt.cli.command import Command, ExitStatus
from instantrt.engine.flavours import FLAVOURS
from instantrt_engines.arguments import (
    BuildCommandOptions,
    InspectOptions,
    add_build_arguments,
    add_inspect_arguments,
    check_build,
)


def _load_build() -> Callable[[BuildCommandOptions], ExitStatus]:
    from instantrt_engines.run_build import run_build

    return run_build


BUILD = Command(
    "build",
    "build a bundle's networks into plans for NVIDIA GPUs",
    BuildCommandOptions,
    add_build_arguments,
    _load_build,
    lambda options: FLAVOURS[options.target].extra_for("build") if options.target in FLAVOURS else "build",
    check_build,
)


def _load_inspect() -> Callable[[InspectOptions], ExitStatus]:
    from instantrt_engines.run_inspect import run_inspect

    return run_inspect


INSPECT = Command(
    "inspect",
    "show a bundle's networks, their cost, and the device memory that they need",
    InspectOptions,
    add_inspect_arguments,
    _load_inspect,
    lambda _: "build",
)
