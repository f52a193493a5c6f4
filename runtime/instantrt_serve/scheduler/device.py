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
        self._working: dict[int, Turn] = {}
        self._opened = self._turns = 0

    @property
    def left_ms(self) -> float:
        """Work that is left of all jobs."""
        return sum(job.left_ms + self.limits.fixed_ms for job in self.jobs.values())

    def state(self, now_s: float) -> State:
        """What the policy is given."""
        jobs, lanes = tuple(self.jobs.values()), tuple(self.lanes.values())
        return State(jobs, self.imagined.jobs, lanes, self.limits, now_s, frozenset(self._working))

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
        turn, expired = self.decide(now_s)
        if turn is None:
            return (0.0, expired) if expired else None
        lane, duration_ms = self.begin(turn)
        done = self.end(lane, now_s + duration_ms / 1e3)
        return duration_ms / 1e3, expired + done

    def decide(self, now_s: float) -> tuple[Turn | None, list[Ended]]:
        """What to do next, and who leaves because it is too late for them."""
        decision: Decision = decide(self.state(now_s))
        for name in decision.expired:
            self.remove(name)
        return decision.turn, [Ended(name, now_s, is_done=False) for name in decision.expired]

    def begin(self, turn: Turn) -> tuple[int, float]:
        """Put a lane to work: its number, and for how many milliseconds it works."""
        lane = self._lane(turn)
        for join in turn.joins:
            self._set_picture(join.job, join.picture, place=Place(lane, join.slot))
        self._working[lane] = turn
        here = self._here(lane)
        cost = self.limits.cost(turn.shape.slots, on_track=turn.on_track)
        call_ms = max(self.jobs[name].call_ms for name, _ in here) * cost
        ending = {name for name, _ in here if all(p.left in (0, turn.calls) for p in self.jobs[name].pictures)}
        return lane, call_ms * turn.calls + self.limits.fixed_ms * len(ending)

    def end(self, lane: int, now_s: float) -> list[Ended]:
        """A lane has done its turn: who leaves."""
        calls, here = self._working.pop(lane).calls, self._here(lane)
        work_ms = sum(self.jobs[name].call_ms for name, _ in here) * calls
        for name, index in here:
            picture = self.jobs[name].pictures[index]
            left = picture.left - calls
            self._set_picture(name, index, left=left, place=picture.place if left else None)
        done = [name for name, job in self.jobs.items() if job.left_ms == 0]
        for name in done:
            del self.jobs[name]
        self.imagined.advance(work_ms, self.jobs)
        return [Ended(name, now_s, is_done=True) for name in done]

    def _here(self, lane: int) -> list[tuple[str, int]]:
        """Jobs and pictures in a lane."""
        return [
            (name, index)
            for name, job in self.jobs.items()
            for index, picture in enumerate(job.pictures)
            if picture.place is not None and picture.place.lane == lane
        ]

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
