"""TensorRT's log: kept, written to a file, and read for the errors and the memory figures that it holds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

from instantrt_engines.tensorrt_api import TensorRT

if TYPE_CHECKING:
    import tensorrt as trt

# Said by TensorRT-RTX at every failure on a machine without a GPU; explains nothing.
NOISE = re.compile(r"\[checkMacros\.cpp::catchCudaError.*cudaError 35.*\)\)|^ModelImporter\.cpp:\d+: ---.*")
MEMORY = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")


@dataclass
class BuildLog:
    """The messages of one build.

    Args:
        file: gets every message as it comes, if given.
    """

    file: TextIO | None = None
    errors: list[str] = field(default_factory=list)
    activation_bytes: list[int] = field(default_factory=list)  # one per profile, in their order
    weight_bytes: int | None = None

    def add(self, severity: str, message: str) -> None:
        """Take one message of TensorRT's."""
        if self.file is not None:
            self.file.write(f"[{severity}] {message}\n")
        if "ERROR" in severity and words(message):
            self.errors.append(words(message))
        memory = MEMORY.search(message)
        if memory and memory[1] == "Activation":
            self.activation_bytes.append(int(memory[2]))
        elif memory:
            self.weight_bytes = int(memory[2])


def words(message: str) -> str:
    """TensorRT's message on one line, without what it says at every failure on a machine without a GPU."""
    return " ".join(NOISE.sub("", message).split())


class _Sink:
    """Where the process's one TensorRT logger sends its messages at present."""

    log: BuildLog | None = None


@cache
def _logger(api: TensorRT) -> tuple[trt.ILogger, _Sink]:
    """TensorRT takes the first logger that a process gives it and ignores later ones, so there is one per flavour."""
    sink = _Sink()
    base: Any = api.ILogger

    class Logger(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            if sink.log is not None:
                sink.log.add(severity.name, msg)

    return Logger(), sink


@contextmanager
def logging_to(api: TensorRT, log: BuildLog) -> Iterator[trt.ILogger]:
    """TensorRT's logger, whose messages go to ``log`` meanwhile. One build at a time in a process."""
    logger, sink = _logger(api)
    previous, sink.log = sink.log, log
    try:
        yield logger
    finally:
        sink.log = previous
