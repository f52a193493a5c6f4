"""Keeps one worker process alive, and gives the API process its jobs' events: the real :class:`WorkerClient`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from msgspec.structs import replace

from instantrt_serve.estimate import expected_ms
from instantrt_serve.frames import FrameError, decode_from_worker, frame, read_frame_async
from instantrt_serve.logs import log
from instantrt_serve.messages import (
    Beat,
    Cancel,
    Done,
    Event,
    Failed,
    FromWorker,
    Progress,
    Ready,
    Stop,
    Submit,
    ToWorker,
)
from instantrt_serve.worker_client import Load, WorkerLostError, WorkerState

KILLED_AFTER_S = 5.0  # that a process may take to end once its connection is closed


@dataclass(frozen=True)
class SupervisorOptions:
    """When a worker counts as hung, and how soon it is started again.

    Args:
        hang_s: without a word from a worker that is ready; never less than 20 of its network calls, and while it loads
            networks for another lane twice the time that it took to start.
        start_s: that a worker may take until it is ready.
        first_backoff_s: between a death and the next start; doubles with every worker that dies before it is ready.
        max_backoff_s: at most.
    """

    hang_s: float = 30.0
    start_s: float = 1800.0
    first_backoff_s: float = 0.1
    max_backoff_s: float = 10.0


@dataclass
class _OpenJob:
    number: int  # in the order in which this process sent them
    expected_ms: float
    events: asyncio.Queue[Event | None] = field(default_factory=asyncio.Queue)  # None: the worker is lost


def worker_command(bundle: str, *options: str) -> list[str]:
    """The command of a real worker; ``options`` as ``python -m instantrt_serve.worker --help`` lists them."""
    return [sys.executable, "-m", "instantrt_serve.worker", bundle, *options]


class Supervisor:
    """A :class:`instantrt_serve.worker_client.WorkerClient` whose worker is a child process.

    Args:
        command: what is started.
        options: times.
    """

    def __init__(self, command: Sequence[str], options: SupervisorOptions | None = None) -> None:
        self._command, self._options = list(command), options or SupervisorOptions()
        self._state = WorkerState.STARTING
        self._ready: Ready | None = None
        self._beat = Beat(0, 0, 0.0)
        self._restarts = 0
        self._jobs: dict[str, _OpenJob] = {}
        self._sent = self._named = 0
        self._heard_s = 0.0
        self._process: Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def state(self) -> WorkerState:
        """Whether jobs are taken."""
        return self._state

    @property
    def ready(self) -> Ready | None:
        """What the worker said when it was ready last; None before."""
        return self._ready

    @property
    def restarts(self) -> int:
        """How often the worker's process was started anew after it died or hung."""
        return self._restarts

    @property
    def pid(self) -> int | None:
        """Of the worker's process; None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def load(self) -> Load:
        """How much work there is: what the worker said last, and jobs that it had not seen then."""
        unseen_ms = sum(job.expected_ms for job in self._jobs.values() if job.number > self._beat.received)
        active = min(self._beat.active, len(self._jobs))
        return Load(len(self._jobs) - active, active, self._beat.backlog_ms + unseen_ms)

    async def start(self) -> None:
        """Start the worker's process; returns at once, and the process is started anew whenever it dies or hangs."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_alive())

    async def submit(self, work: Submit) -> AsyncIterator[Event]:
        """The events of a job, the last of which is Done or Failed. Closing the iterator early cancels the job.

        Raises:
            WorkerLostError: while iterating, when the worker dies or hangs, or is not ready.
        """
        if self._state is not WorkerState.READY or self._process is None:
            raise _lost("the worker is not ready")
        assert self._ready is not None
        self._sent += 1
        self._named += 1
        name = f"{work.job}#{self._named}"  # so that late news of a cancelled job are not taken for a later one's
        job = self._jobs[name] = _OpenJob(self._sent, expected_ms(work.fields, self._ready))
        ended = False
        try:
            await self._send(replace(work, job=name))
            while not ended:
                event = await job.events.get()
                if event is None:
                    ended = True
                    raise _lost("the worker died or hung")
                ended = isinstance(event, Done | Failed)
                if ended:
                    self._jobs.pop(name, None)
                yield replace(event, job=work.job)
        finally:
            self._jobs.pop(name, None)
            if not ended:
                self._post(Cancel(name))

    async def stop(self, drain_s: float) -> None:
        """Let open jobs end, for ``drain_s`` seconds at most, then end the process."""
        self._stopping, self._state = True, WorkerState.STOPPED
        if self._process is not None and self._ready is not None:
            self._post(Stop())
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), drain_s)
        self._kill()
        if self._keeper is not None:
            if self._process is None:
                self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper

    async def _keep_alive(self) -> None:
        """Start the process again and again."""
        options = self._options
        backoff_s = options.first_backoff_s
        while not self._stopping:
            was_ready = await self._live()
            if self._stopping:
                return
            self._restarts += 1
            backoff_s = options.first_backoff_s if was_ready else min(2 * backoff_s, options.max_backoff_s)
            await asyncio.sleep(backoff_s)

    async def _live(self) -> bool:
        """One life of the process, from its start to its end; whether it was ready in between."""
        self._beat, self._sent = Beat(0, 0, 0.0), 0
        self._heard_s = asyncio.get_running_loop().time()
        # A session of its own: Ctrl-C on a terminal is for the API process, which then drains this one.
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, start_new_session=True, limit=1 << 20
        )
        self._process = process
        is_ready = asyncio.Event()
        watchdog = asyncio.create_task(self._watch(is_ready))
        reason: Literal["ended", "spoke nonsense"] = "ended"
        try:
            await self._read(process, is_ready)
        except (FrameError, ValueError):  # msgspec's errors are ValueErrors
            reason = "spoke nonsense"
        finally:
            watchdog.cancel()
            self._process = None
            self._lose_jobs()
            status = await _ended(process)
            if not self._stopping:
                log("worker_lost", logging.WARNING, reason=reason, status=status)
        return is_ready.is_set()

    async def _read(self, process: Process, is_ready: asyncio.Event) -> None:
        assert process.stdout is not None
        while (body := await read_frame_async(process.stdout)) is not None:
            self._heard_s = asyncio.get_running_loop().time()
            message: FromWorker = decode_from_worker(body)
            match message:
                case Ready():
                    self._ready = message
                    is_ready.set()
                    if not self._stopping:
                        self._state = WorkerState.READY
                case Beat():
                    self._beat = message
                case Progress() | Done() | Failed():
                    job = self._jobs.get(message.job)
                    if job is not None:
                        job.events.put_nowait(message)

    async def _watch(self, is_ready: asyncio.Event) -> None:
        """Kill a process that is silent for too long."""
        loop, strikes = asyncio.get_running_loop(), 0
        started_s = loop.time()
        try:
            await asyncio.wait_for(is_ready.wait(), self._options.start_s)
            start_s = loop.time() - started_s
        except TimeoutError:
            log("worker_hung", logging.WARNING, while_starting=True)
            self._kill()
            return
        assert self._ready is not None
        hang_s = max(self._options.hang_s, 20 * max(self._ready.call_ms.values(), default=0.0) / 1e3)
        while strikes < 2:  # the first may mean that this process itself was held up and has not read yet
            await asyncio.sleep(hang_s / 8)
            limit_s = max(hang_s, 2 * start_s) if self._beat.opens_lane else hang_s
            strikes = strikes + 1 if loop.time() - self._heard_s > limit_s else 0
        log("worker_hung", logging.WARNING, while_starting=False)
        self._kill()

    async def _send(self, message: ToWorker) -> None:
        """Write a message and wait until the pipe takes more. What a dead worker is sent is lost, as its end tells."""
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(ConnectionError):
                self._process.stdin.write(frame(message))
                await self._process.stdin.drain()

    def _post(self, message: ToWorker) -> None:
        """Write a short message without waiting."""
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(frame(message))

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _lose_jobs(self) -> None:
        if not self._stopping:
            self._state = WorkerState.STARTING
        for job in self._jobs.values():
            job.events.put_nowait(None)
        self._jobs.clear()


def _lost(what: str) -> WorkerLostError:
    return WorkerLostError(what, found="no answer for this job", hint="send the same request again in a few seconds")


async def _ended(process: Process) -> int:
    """The exit status of a process whose connection is closed; it is killed if it stays."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        return await asyncio.wait_for(process.wait(), KILLED_AFTER_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        return await process.wait()
