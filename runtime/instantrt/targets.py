"""The targets by name."""

from __future__ import annotations

from collections.abc import Callable

from instantrt.bundle import Bundle
from instantrt.engine import Target
from instantrt.engine.onnxruntime import OnnxRuntimeTarget
from instantrt.errors import RequestError

TARGETS: dict[str, Callable[[Bundle, int | None], Target]] = {"onnxruntime": OnnxRuntimeTarget}


def open_target(name: str, bundle: Bundle, threads: int | None) -> Target:
    """The target of that name on a bundle.

    Raises:
        RequestError: an unknown target; the message lists the known ones.
    """
    if name not in TARGETS:
        raise RequestError(f"unknown target {name!r}", hint=f"use one of: {', '.join(TARGETS)}")
    return TARGETS[name](bundle, threads)
