"""What TensorRT says during a build: written to a file, and read for errors and memory figures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from instantrt.atomic import output_errors
from instantrt.engine.tensorrt_log import tensorrt_log

if TYPE_CHECKING:
    import tensorrt as trt

# Said by TensorRT-RTX at every failure on a machine without a GPU; explains nothing.
NOISE = re.compile(r"\[checkMacros\.cpp::catchCudaError.*cudaError 35.*\)\)|^ModelImporter\.cpp:\d+: ---.*")
MEMORY = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")


class LogFile:
    """TensorRT's whole log as a file.

    Writing never raises: an exception inside TensorRT's call would end the process. :meth:`close` tells what failed.

    Raises:
        OutputError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._error: OSError | None = None
        with output_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", encoding="utf-8")

    def write(self, text: str) -> None:
        """Add a text, unless an earlier one could not be written."""
        if self._error is None:
            try:
                self._file.write(text)
            except OSError as error:
                self._error = error

    def close(self) -> None:
        """Finish the file.

        Raises:
            OutputError: not all of it could be written.
        """
        with output_errors(self._path):
            self._file.close()
            if self._error is not None:
                raise self._error


@dataclass
class BuildLog:
    """The messages of one build.

    Args:
        file: gets every message as it comes, verbose ones too, if given.
    """

    file: LogFile | None = None
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

    @contextmanager
    def listening(self, module: ModuleType, *, verbose: bool = False) -> Iterator[trt.ILogger]:
        """The logger of a TensorRT module, whose messages come here meanwhile. One build at a time in a process.

        Verbose messages come if there is a file for them, or with ``verbose``.
        """
        log = tensorrt_log(module)
        with log.heard_by(self.add, verbose=verbose or self.file is not None):
            yield log.logger


def words(message: str) -> str:
    """TensorRT's message on one line, without what it says at every failure on a machine without a GPU."""
    return " ".join(NOISE.sub("", message).split())
