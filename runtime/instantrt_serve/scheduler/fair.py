"""When each job would end if the device were shared fairly: the order in which jobs are served.

The fair sojourn protocol (Friedman and Henderson, "Fairness and efficiency in web server protocols", SIGMETRICS 2003):
imagine a device that all jobs share at once, and serve the real jobs one after the other in the order in which the
imagined ones end. No job then ends later than under fair sharing, and most end much earlier. Here the imagined device
is shared equally between accounts, and an account's part equally between its jobs. Work is in milliseconds of the
device.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

EPSILON_MS = 1e-9


@dataclass(frozen=True)
class FairJob:
    """A job on the imagined device.

    Args:
        account: whose it is.
        left_ms: work that the imagined device still has to do for it.
        ended_ms: how much work the imagined device had done in all when it ended; None while it goes on.
    """

    account: str
    left_ms: float
    ended_ms: float | None = None


def water_level(amount: float, capacities: Iterable[float]) -> float:
    """How full vessels of these capacities get when ``amount`` is poured over all of them at once."""
    ordered = sorted(capacities)
    level = 0.0
    for index, capacity in enumerate(ordered):
        step = (capacity - level) * (len(ordered) - index)
        if step >= amount:
            return level + amount / (len(ordered) - index)
        amount, level = amount - step, capacity
    return level


def account_service_ms(jobs: Mapping[str, FairJob]) -> dict[str, float]:
    """What each job's account will have been given when that job ends, from now on.

    All accounts are given work at the same rate, so that is also the order in which jobs of all accounts end.
    """
    lefts = _by_account(jobs)
    sums: dict[str, dict[float, float]] = {}
    for account, values in lefts.items():
        ordered, before = sorted(values), 0.0
        sums[account] = {}
        for index, left in enumerate(ordered):
            sums[account].setdefault(left, before + left * (len(ordered) - index))
            before += left
    return {name: sums[job.account][job.left_ms] for name, job in jobs.items()}


def order(jobs: Mapping[str, FairJob]) -> list[str]:
    """The jobs in the order in which they end, those that have ended first; ties as they stand in ``jobs``."""
    service = account_service_ms(jobs)

    def key(name: str) -> tuple[bool, float]:
        ended = jobs[name].ended_ms
        return (True, service[name]) if ended is None else (False, ended)

    return sorted(jobs, key=key)


def advanced(jobs: Mapping[str, FairJob], work_ms: float, clock_ms: float) -> dict[str, FairJob]:
    """The jobs after the imagined device did so much work.

    Args:
        jobs: by name.
        work_ms: what was done.
        clock_ms: what had been done in all before.
    """
    accounts = _by_account(jobs)
    totals = {account: sum(lefts) for account, lefts in accounts.items()}
    service = account_service_ms(jobs)
    share = water_level(work_ms, totals.values())
    levels = {account: water_level(min(share, totals[account]), v) for account, v in accounts.items()}
    return {
        name: _after(job, levels[job.account], service[name], totals.values(), clock_ms) for name, job in jobs.items()
    }


class ImaginedDevice:
    """The imagined device's jobs. One that the real device has done stays until the imagined one has done it too."""

    def __init__(self) -> None:
        self.jobs: dict[str, FairJob] = {}
        self.work_ms = 0.0

    def add(self, name: str, account: str, work_ms: float) -> None:
        """A job arrives."""
        self.jobs[name] = FairJob(account, work_ms)

    def remove(self, name: str) -> None:
        """A job is cancelled or has failed."""
        self.jobs.pop(name, None)

    def advance(self, work_ms: float, open_jobs: Iterable[str]) -> None:
        """The real device did so much work; ``open_jobs`` are those that it has not done yet."""
        jobs, names = advanced(self.jobs, work_ms, self.work_ms), set(open_jobs)
        self.work_ms += work_ms
        # After cancellations the two may differ in what is left. An idle real device means that nothing is owed.
        self.jobs = {n: job for n, job in jobs.items() if n in names or job.ended_ms is None} if names else {}


def _after(job: FairJob, level_ms: float, service_ms: float, totals_ms: Iterable[float], clock_ms: float) -> FairJob:
    if job.ended_ms is not None:
        return job
    left = job.left_ms - level_ms
    if left > EPSILON_MS:
        return replace(job, left_ms=left)
    return replace(job, left_ms=0.0, ended_ms=clock_ms + sum(min(total, service_ms) for total in totals_ms))


def _by_account(jobs: Mapping[str, FairJob]) -> dict[str, Sequence[float]]:
    lefts: dict[str, list[float]] = defaultdict(list)
    for job in jobs.values():
        lefts[job.account].append(job.left_ms)
    return dict(lefts)
