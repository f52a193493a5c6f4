"""`instantrt export`. What does the work is imported when the command runs."""

from __future__ import annotations

from collections.abc import Callable

from instantrt.cli.command import Command, ExitStatus
from instantrt_export.arguments import ExportOptions, add_arguments, check


def _load() -> Callable[[ExportOptions], ExitStatus]:
    from instantrt_export.run import run_export

    return run_export


COMMAND = Command(
    "export",
    "export a checkpoint's networks to ONNX and write a bundle",
    ExportOptions,
    add_arguments,
    _load,
    lambda _: "export",
    check,
)
