"""Jobs to the worker and what becomes of them: who is admitted, how far each is, and which place in line it has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast

from instantrt.errors import InstantRTError
from instantrt_serve.admission import Accepted, AdmissionLimits, OpenWork, admit
from instantrt_serve.config import ServeConfig
from instantrt_serve.errors import ApiError, api_error
from instantrt_serve.estimate import expected_ms
from instantrt_serve.messages import Done, Event, Failed, Progress, Submit
from instantrt_serve.metrics import Metrics
from instantrt_serve.tracing import Traces
from instantrt_serve.worker_client import WorkerClient, WorkerState

REFUSALS = {
    "queue": "too many requests are waiting",
    "memory": "too many photos are waiting",
    "deadline": "the picture would not be ready in time",
}
"""By the reason of :class:`instantrt_serve.admission.Refused`."""


@dataclass
class OpenJob:
    """A job that has not ended, as far as is known. Whoever watches it is told of changes, not of each event.

    Args:
        calls_done: network calls.
        calls: in all; 0 as long as it waits.
        preview: the newest one, a JPEG.
        work: what the device has to do for all of it, once it is with the worker or has a place there.
    """

    calls_done: int = 0
    calls: int = 0
    preview: bytes | None = None
    work: OpenWork | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def waits(self) -> bool:
        """Whether it has not begun."""
        return self.calls == 0

    @property
    def left(self) -> OpenWork | None:
        """What the device still has to do."""
        if self.work is None or self.calls == 0:
            return self.work
        return replace(self.work, left_ms=self.work.left_ms * (1 - self.calls_done / self.calls))

    def note(self, progress: Progress) -> None:
        """Take over what the worker says."""
        self.calls_done, self.calls = progress.calls_done, progress.calls
        self.preview = progress.preview or self.preview
        self.tell()

    def tell(self) -> None:
        """Wake all who watch."""
        self.changed.set()
        self.changed = asyncio.Event()


class Dispatch:
    """One worker's jobs.

    Args:
        config: limits.
        worker: does the work.
        metrics: counts it.
        traces: get a span for each.
    """

    def __init__(self, config: ServeConfig, worker: WorkerClient, metrics: Metrics, traces: Traces) -> None:
        self._config, self.worker, self._metrics, self._traces = config, worker, metrics, traces
        self._limits = AdmissionLimits(config.max_waiting, config.max_photo_bytes)
        self.stopping = asyncio.Event()
        self._jobs: dict[str, OpenJob] = {}

    def check_open(self) -> None:
        """Raise :class:`ApiError` while no request can be taken, whichever it is."""
        if self.stopping.is_set():
            raise ApiError("stopping", "the server is about to stop", hint="try again, or try another server")
        if self.worker.state is not WorkerState.READY:
            hint = "wait until /readyz says so"
            raise ApiError("starting", "the server is not ready", found=self.worker.state.value, hint=hint)

    def check_room(self, work: OpenWork) -> None:
        """Raise :class:`ApiError`, with a time to wait, if a job has no place in line, or none that is soon enough."""
        queue = [left for job in self._jobs.values() if (left := job.left) is not None]
        answer = admit(work, queue, self._limits, self._config.timeout_s)
        if isinstance(answer, Accepted):
            return
        what, found = REFUSALS[answer.reason], f"{len(queue)} open, {sum(w.left_ms for w in queue) / 1e3:.1f} s of work"
        hint = "try again after the time in Retry-After"
        raise ApiError("queue_full", what, found=found, hint=hint, retry_after_s=answer.retry_after_s)

    @contextmanager
    def admitted(self, work: Submit) -> Iterator[None]:
        """A place in line for a job from now on, so that those who come at the same time are counted as well.

        Raises:
            ApiError: see :meth:`check_open` and :meth:`check_room`.
        """
        self.check_open()
        expected = self._work_of(work)
        self.check_room(expected)
        self.enter(work.job).work = expected
        try:
            yield
        finally:
            self.leave(work.job)

    def enter(self, job: str) -> OpenJob:
        """A job is known from now on; one that may wait as long as it takes is counted only when it runs."""
        self._jobs[job] = entered = OpenJob()
        return entered

    def leave(self, job: str) -> None:
        """A job has ended, one way or the other."""
        left = self._jobs.pop(job)
        left.tell()
        if left.waits:
            self._tell_waiting()

    def find(self, job: str) -> OpenJob | None:
        """An open job."""
        return self._jobs.get(job)

    def place(self, job: str) -> int:
        """How many jobs came before this one and wait still, and itself; 0 once it has begun, or is not open."""
        if job not in self._jobs or not self._jobs[job].waits:
            return 0
        ids = [name for name, other in self._jobs.items() if other.waits]
        return ids.index(job) + 1

    async def run(self, work: Submit) -> Done:
        """The pictures of a job that has entered. Cancelling the caller cancels the job.

        Raises:
            ApiError: it failed, as clients may know it.
            WorkerLostError: the worker died or hung.
        """
        job, began = self._jobs[work.job], time.perf_counter()
        job.work = job.work or self._work_of(work)
        about: dict[str, Any] = {"job": work.job, "key": work.account, "steps": work.fields["steps"]}
        try:
            done = await self._follow(work, job)
        except InstantRTError as error:
            job.work, job.calls_done, job.calls = None, 0, 0  # it may be tried again
            job.tell()
            self._traces.note("job", time.perf_counter() - began, {**about, "code": error.code})
            raise
        self._traces.note("job", time.perf_counter() - began, {**about, "queue": done.queue_ms, **done.stages_ms})
        return done

    def _work_of(self, work: Submit) -> OpenWork:
        """What a job asks of the device, by what the worker measured when it started."""
        photo_bytes = len(work.face) + len(work.pose or b"")
        ready = self.worker.ready
        return OpenWork(work.account, 0.0 if ready is None else expected_ms(work.fields, ready), photo_bytes)

    async def _follow(self, work: Submit, job: OpenJob) -> Done:
        # Implementations are generators; closing one is how a job is cancelled.
        events = cast("AsyncGenerator[Event]", self.worker.submit(work))
        async with aclosing(events):
            async for event in events:
                match event:
                    case Progress():
                        begins = job.waits
                        job.note(event)
                        if begins:
                            self._tell_waiting()
                    case Done():
                        self._metrics.note_done(event)
                        return event
                    case Failed():
                        self._metrics.note_failed(event.code)
                        raise api_error(event)
        raise RuntimeError("a job's events ended without Done or Failed")

    def _tell_waiting(self) -> None:
        """Places in line have changed."""
        for job in self._jobs.values():
            if job.waits:
                job.tell()
