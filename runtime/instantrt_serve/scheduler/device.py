"""A device that only counts: carries out the policy's decisions, for its tests and its simulation."""

from __future__ import annotations

from dataclasses import dataclass, replace

from instantrt_serve.scheduler.fair import ImaginedDevice
from instantrt_serve.scheduler.policy import Decision, Job, Lane, Limits, Picture, Place, State, Turn, decide


@dataclass(frozen=True)
class Ended:
    """A job that has left the device; ``is_done`` is False if it had run out of time."""

    job: str
    at_s: float
    is_done: bool


class CountingDevice:
    """Jobs and lanes as the worker keeps them, without networks.

    Args:
        limits: of the policy.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.jobs: dict[str, Job] = {}
        self.lanes: dict[int, Lane] = {}
        self.imagined = ImaginedDevice()
        self._opened = self._turns = 0

    @property
    def left_ms(self) -> float:
        """Work that is left of all jobs."""
        return sum(job.left_ms + self.limits.fixed_ms for job in self.jobs.values())

    def state(self, now_s: float) -> State:
        """What the policy is given."""
        return State(tuple(self.jobs.values()), self.imagined.jobs, tuple(self.lanes.values()), self.limits, now_s)

    def add(self, job: Job, account: str) -> None:
        """A job of an account arrives."""
        self.jobs[job.name] = job
        self.imagined.add(job.name, account, job.left_ms)

    def remove(self, name: str) -> None:
        """A job is cancelled, or was never there."""
        self.jobs.pop(name, None)
        self.imagined.remove(name)

    def turn(self, now_s: float) -> tuple[float, list[Ended]] | None:
        """Decide and carry it out: seconds that it takes, and who leaves; None if there is nothing to do."""
        decision: Decision = decide(self.state(now_s))
        ended = [Ended(name, now_s, is_done=False) for name in decision.expired]
        for name in decision.expired:
            self.remove(name)
        if decision.turn is None:
            return (0.0, ended) if ended else None
        duration_ms, work_ms = self._carry_out(decision.turn)
        done = [name for name, job in self.jobs.items() if job.left_ms == 0]
        duration_ms += self.limits.fixed_ms * len(done)
        for name in done:
            del self.jobs[name]
        self.imagined.advance(work_ms, self.jobs)
        end_s = now_s + duration_ms / 1e3
        return duration_ms / 1e3, ended + [Ended(name, end_s, is_done=True) for name in done]

    def _carry_out(self, turn: Turn) -> tuple[float, float]:
        """Milliseconds of the lane's calls, and how many of them were work for somebody."""
        lane = self._lane(turn)
        for join in turn.joins:
            self._set_picture(join.job, join.picture, place=Place(lane, join.slot))
        here = [
            (name, index)
            for name, job in self.jobs.items()
            for index, picture in enumerate(job.pictures)
            if picture.place is not None and picture.place.lane == lane
        ]
        call_ms = max(self.jobs[name].call_ms for name, _ in here) * self.limits.cost(turn.shape.slots)
        work_ms = sum(self.jobs[name].call_ms for name, _ in here) * turn.calls
        for name, index in here:
            picture = self.jobs[name].pictures[index]
            left = picture.left - turn.calls
            self._set_picture(name, index, left=left, place=picture.place if left else None)
        return call_ms * turn.calls, work_ms

    def _lane(self, turn: Turn) -> int:
        if turn.closes is not None:
            del self.lanes[turn.closes]
        number = turn.lane
        if number is None:
            self._opened += 1
            number = self._opened
        self._turns += 1
        self.lanes[number] = Lane(number, turn.shape, self._turns)
        return number

    def _set_picture(self, name: str, index: int, *, place: Place | None, left: int | None = None) -> None:
        job = self.jobs[name]
        old = job.pictures[index]
        new = Picture(old.left if left is None else left, place)
        self.jobs[name] = replace(job, pictures=(*job.pictures[:index], new, *job.pictures[index + 1 :]))
