"""What TensorRT says: it reports failures as None, False or RuntimeError and puts the reason into its log."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from instantrt.errors import EngineError

if TYPE_CHECKING:
    import tensorrt as trt

KEPT_ERRORS = 20

Listener = Callable[[str, str], None]  # (name of the severity, message), on whichever thread TensorRT speaks


class TensorRTLog:
    """The one logger of a TensorRT module in this process, for building and for running. Use :func:`tensorrt_log`.

    TensorRT has no filter of its own for loggers written in Python: it hands over the verbose messages too, of which a
    build has many (11,000 for nano's IdentityNet), a datacenter build's trials of kernels included. Those that nobody
    wants are dropped at the first look, which is a fifth of what such a message costs, 1.5 us (`pytest bench/micro -k
    dropped`). Only a logger in C++ would be spared the rest, and TensorRT's own can do nothing but print.

    Args:
        module: TensorRT's Python module.
    """

    def __init__(self, module: ModuleType) -> None:
        severity: Any = module.ILogger.Severity
        self._errors: deque[str] = deque(maxlen=KEPT_ERRORS)
        self._listeners: list[tuple[int, Listener]] = []
        self._error, self._info, self._verbose = (int(s) for s in (severity.ERROR, severity.INFO, severity.VERBOSE))
        self._least_severe = self._error  # of what is wanted; TensorRT's numbers grow from severe to verbose
        self.logger: trt.ILogger = self._logger(module)

    def failure(self, what: str, hint: str, otherwise: str = "TensorRT gave no reason") -> EngineError:
        """The error for something that TensorRT refused, quoting what it said; the next one starts afresh.

        Args:
            what: the mistake.
            hint: what to do.
            otherwise: what is quoted if its log has nothing.
        """
        said = "; ".join(self._errors)
        self._errors.clear()
        return EngineError(what, found=said or otherwise, hint=hint)

    @contextmanager
    def refusing(self, what: str, hint: str) -> Iterator[None]:
        """Make a :meth:`failure` of the RuntimeError with which some of the bindings' functions answer a refusal."""
        try:
            yield
        except RuntimeError as error:
            raise self.failure(what, hint, str(error)) from error

    @contextmanager
    def heard_by(self, listener: Listener, *, verbose: bool = False) -> Iterator[None]:
        """Hand every message, verbose ones only if asked, to ``listener`` too while the enclosed work runs.

        Errors of that work are its own: no later :meth:`failure` quotes them.
        """
        entry = (self._verbose if verbose else self._info, listener)
        self._set_listeners([*self._listeners, entry])
        try:
            yield
        finally:
            self._set_listeners([other for other in self._listeners if other is not entry])
            self._errors.clear()

    def _set_listeners(self, listeners: list[tuple[int, Listener]]) -> None:
        self._listeners = listeners
        self._least_severe = max([self._error, *(level for level, _ in listeners)])

    def _take(self, severity: trt.ILogger.Severity, message: str) -> None:
        level = int(severity)
        if level <= self._error:
            self._errors.append(message.strip())
        for least_severe, listener in self._listeners:
            if level <= least_severe:
                listener(severity.name, message)

    def _logger(self, module: ModuleType) -> Any:
        base: Any = module.ILogger
        log = self

        class Logger(base):  # type: ignore[misc]
            def __init__(self) -> None:
                base.__init__(self)

            def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
                if int(severity) <= log._least_severe:
                    log._take(severity, msg)

        return Logger()


@cache
def tensorrt_log(module: ModuleType) -> TensorRTLog:
    """The module's log. As long as anything that was made with a logger lives, TensorRT ignores other loggers."""
    return TensorRTLog(module)
