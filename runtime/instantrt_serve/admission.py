"""Whether a job is taken or told to come again later: a pure function of what is known of the queue.

A job that is taken is meant to be answered before its deadline, and an account that sends more than its part fills its
part of the queue, not everybody's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from typing import Literal

FREE_SHARE = 0.5  # of the queue that whoever comes first may fill; of the rest each account gets its part
DEADLINE_SHARE = 0.7  # of the time until a deadline that work may fill: the rest is for short jobs that overtake
MAX_RETRY_S = 600


@dataclass(frozen=True)
class OpenWork:
    """A job that has been taken and not answered.

    Args:
        account: whose it is.
        left_ms: device time that it still needs.
        photo_bytes: of its photos' files.
    """

    account: str
    left_ms: float
    photo_bytes: int = 0


@dataclass(frozen=True)
class AdmissionLimits:
    """How much may wait.

    Args:
        jobs: open at the same time.
        photo_bytes: of all open jobs' photos.
        wait_s: of work ahead of a job that has no deadline.
    """

    jobs: int = 256
    photo_bytes: int = 1 << 30
    wait_s: float = 600.0


@dataclass(frozen=True)
class Accepted:
    """The job is taken; ``wait_ms`` of work are ahead of it at most."""

    wait_ms: float


@dataclass(frozen=True)
class Refused:
    """The job is not taken.

    Args:
        reason: what is full, or that the job could not be done in time.
        retry_after_s: whole seconds after which there is probably room.
    """

    reason: Literal["queue", "memory", "deadline"]
    retry_after_s: int


def admit(
    job: OpenWork, queue: Iterable[OpenWork], limits: AdmissionLimits, deadline_s: float | None, speed: float = 1.0
) -> Accepted | Refused:
    """Take a job or refuse it.

    Args:
        job: the new one.
        queue: all open ones.
        limits: how much may wait.
        deadline_s: seconds from now after which the new job's answer is of no use; None if it may wait.
        speed: measured: milliseconds of expected work that are done per millisecond.
    """
    jobs = list(queue)
    own = [other for other in jobs if other.account == job.account]
    parts = len({other.account for other in jobs} | {job.account}) + 1
    work_ms, own_ms = sum(other.left_ms for other in jobs), sum(other.left_ms for other in own)
    new = (1, job.left_ms) if own else (0, 0.0)  # the first job of an account may take more than its part
    wait_ms = 1e3 * speed * (limits.wait_s if deadline_s is None else DEADLINE_SHARE * deadline_s)
    too_many = _excess(len(jobs) + 1, len(own) + new[0], limits.jobs, parts)
    too_long_ms = _excess(work_ms + job.left_ms, own_ms + new[1], wait_ms, parts)
    photo_bytes = sum(other.photo_bytes for other in jobs) + job.photo_bytes
    if photo_bytes > limits.photo_bytes and jobs:
        return Refused("memory", _seconds(work_ms / len(jobs), speed))
    if too_many > 0:
        return Refused("queue", _seconds(too_many * work_ms / max(len(jobs), 1), speed))
    if too_long_ms > 0 and (jobs or deadline_s is not None):
        return Refused("queue" if deadline_s is None else "deadline", _seconds(too_long_ms, speed))
    return Accepted(work_ms / speed)


def _excess(total: float, own: float, limit: float, parts: int) -> float:
    """By how much a limit is exceeded: by all, or by an account that takes more than its part of a fuller queue."""
    if total <= FREE_SHARE * limit:
        return 0.0
    return max(total - limit, own - limit / parts, 0.0)


def _seconds(work_ms: float, speed: float) -> int:
    return max(1, min(MAX_RETRY_S, ceil(work_ms / speed / 1e3)))
