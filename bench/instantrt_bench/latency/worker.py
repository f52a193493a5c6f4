"""One process per system: its own memory peak, its own thread pools, and a crash that takes nothing else down.

The parent asks one worker at a time, so the systems never compute at once.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from instantrt import GenerateRequest
from instantrt_bench.latency.host_memory import forget_peak, peak_bytes
from instantrt_bench.latency.systems import Opener, Sample, SystemSpec, open_system

START_S = 600.0  # to import torch and load a checkpoint of 7 GB from a slow disk
RUN_S = 3600.0  # torch.compile takes minutes on two cores
STOP_S = 10.0


class WorkerError(Exception):
    """A system failed; the message is what a result file says of it."""


@dataclass(frozen=True)
class Opened:
    """How a system came up, in a new process."""

    import_ms: float  # from the process's start until the measuring code was there
    load_ms: float  # the system's own imports and its files


@dataclass(frozen=True)
class Answer:
    """One timed request and what the process says of itself.

    Args:
        sample: the times and the pictures.
        cpu_s: CPU time of the process so far.
        peak_bytes: see :func:`instantrt_bench.latency.host_memory.peak_bytes`.
    """

    sample: Sample
    cpu_s: float
    peak_bytes: int | None


@dataclass(frozen=True)
class _Failure:
    error: str


class Worker:
    """The parent's side: starts the process, asks it, ends it. A context manager.

    Args:
        spec: the system.
        opener: loads it in the new process; must be importable by name.

    Raises:
        WorkerError: the system could not be loaded.
    """

    def __init__(self, spec: SystemSpec, opener: Opener = open_system) -> None:
        # A fresh interpreter: a forked one would share the parent's memory and thread pools.
        context = multiprocessing.get_context("spawn")
        self.name = spec.name
        self.cpu_s = 0.0
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, spec, opener, time.time()), daemon=True)
        with _interrupts_ignored():
            self._process.start()
        other.close()
        try:
            self.opened: Opened = self._receive(START_S)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The process's id."""
        assert self._process.pid is not None
        return self._process.pid

    def forget_peak(self) -> None:
        """Let the memory peak start anew."""
        self._ask(("forget_peak", None), STOP_S)

    def run(self, request: GenerateRequest) -> Answer:
        """Answer one request, timed in the worker: what the pipe takes is not in the times.

        Raises:
            WorkerError: it failed, or the process died.
        """
        answer: Answer = self._ask(("run", request), RUN_S)
        self.cpu_s = answer.cpu_s
        return answer

    def close(self) -> None:
        """End the process, by force if it does not listen; may be called more than once."""
        if self._process.is_alive():
            try:
                self._connection.send(("close", None))
            except OSError:
                self._process.kill()
            self._process.join(STOP_S)
            if self._process.is_alive():
                self._process.kill()
        self._process.join()
        self._connection.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, message: tuple[str, Any], timeout_s: float) -> Any:
        try:
            self._connection.send(message)
        except OSError as error:
            raise WorkerError(self._death()) from error
        return self._receive(timeout_s)

    def _receive(self, timeout_s: float) -> Any:
        if not self._connection.poll(timeout_s):
            self._process.kill()
            raise WorkerError(f"no answer within {timeout_s:g} s")
        try:
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerError(self._death()) from error
        if isinstance(answer, _Failure):
            raise WorkerError(answer.error)
        return answer

    def _death(self) -> str:
        self._process.join(STOP_S)
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"the process was ended by signal {signal.Signals(-code).name}"
        return f"the process ended with status {code}"


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """What is started inside ignores Ctrl-C from its first moment: it goes to the whole group, the parent decides."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signals
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(connection: Connection, spec: SystemSpec, opener: Opener, started_at: float) -> None:
    """The worker's side: load, then answer until told to close."""
    imported_at = time.time()

    def load() -> Any:
        start = time.perf_counter()
        system = opener(spec)
        return system, Opened((imported_at - started_at) * 1e3, (time.perf_counter() - start) * 1e3)

    loaded = _attempt(load)
    if isinstance(loaded, _Failure):
        connection.send(loaded)
        return
    system, opened = loaded
    connection.send(opened)
    try:
        while True:
            message, argument = connection.recv()
            if message == "close":
                return
            connection.send(_attempt(forget_peak if message == "forget_peak" else partial(_run, system, argument)))
    except EOFError:
        return  # the parent is gone
    finally:
        system.close()


def _run(system: Any, request: GenerateRequest) -> Answer:
    sample = system.run(request)
    return Answer(sample, time.process_time(), peak_bytes())


def _attempt(work: Callable[[], Any]) -> Any:
    """What ``work`` returns, or a failure to report: whatever a system raises, the others go on."""
    try:
        return work()
    except Exception as error:
        return _Failure(f"{type(error).__name__}: {error}")
