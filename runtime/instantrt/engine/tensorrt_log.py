"""What TensorRT says: it reports failures as None or False and puts the reason into its log."""

from __future__ import annotations

from collections import deque
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from instantrt.errors import EngineError

if TYPE_CHECKING:
    import tensorrt as trt

KEPT = 20


class TensorRTLog:
    """The latest errors, and the logger that collects them."""

    def __init__(self, module: ModuleType) -> None:
        self.logger, self._errors = _logger(module)

    def failure(self, what: str, hint: str | None = None) -> EngineError:
        """The error for something that TensorRT refused, quoting what it said; the next one starts afresh."""
        said = "; ".join(self._errors)
        self._errors.clear()
        return EngineError(what, found=said or "TensorRT gave no reason", hint=hint)


@cache
def _logger(module: ModuleType) -> tuple[trt.ILogger, deque[str]]:
    """TensorRT takes the first logger that a process gives it and ignores later ones, so there is one per module."""
    errors: deque[str] = deque(maxlen=KEPT)
    base: Any = module.ILogger
    severe = {base.ERROR, base.INTERNAL_ERROR}

    class Logger(base):  # type: ignore[misc]
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            if severity in severe:
                errors.append(msg.strip())

    return Logger(), errors
