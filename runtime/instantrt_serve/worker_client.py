"""The worker as the API process sees it: jobs in, events out, whatever happens to the worker's process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from instantrt.errors import InstantRTError
from instantrt_serve.messages import Event, Ready, Submit


class WorkerState(Enum):
    """What a client knows of its worker."""

    STARTING = "starting"  # also after a death
    READY = "ready"
    STOPPED = "stopped"


class WorkerLostError(InstantRTError):
    """The worker died or hung while a job was open. The same job can be submitted again."""

    code = "worker_lost"


@dataclass(frozen=True)
class Load:
    """What the worker last said of its work; see :class:`instantrt_serve.messages.Beat`."""

    waiting: int = 0
    active: int = 0
    backlog_ms: float = 0.0


class WorkerClient(Protocol):
    """Jobs for one worker process, from one event loop."""

    @property
    def state(self) -> WorkerState:
        """Whether jobs are taken."""
        ...

    @property
    def ready(self) -> Ready | None:
        """What the worker said when it was ready last; None before."""
        ...

    @property
    def load(self) -> Load:
        """How much work there is."""
        ...

    @property
    def restarts(self) -> int:
        """How often the worker's process was started anew after it died or hung."""
        ...

    async def start(self) -> None:
        """Start the worker's process; returns at once, and the process is started anew whenever it dies or hangs."""
        ...

    def submit(self, work: Submit) -> AsyncIterator[Event]:
        """The events of a job, the last of which is Done or Failed. Closing the iterator early cancels the job.

        Raises:
            WorkerLostError: while iterating, when the worker dies or hangs, or is not ready.
        """
        ...

    async def stop(self, drain_s: float) -> None:
        """Let open jobs end, for ``drain_s`` seconds at most, then end the process."""
        ...
