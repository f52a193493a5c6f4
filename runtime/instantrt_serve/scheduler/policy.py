"""The scheduling policy: from the state of jobs and lanes to what the device does next. No clock, thread or device.

A lane is a batch of slots of one shape; lanes share the device in turns of a few network calls. A job is one picture
or several, each of which needs a slot until it is done. Jobs are served in the order of
:mod:`instantrt_serve.scheduler.fair`: a job begins when its turn has come, not before, so that only jobs that a shorter
one has overtaken hold a lane without running. One lane is kept for such a shorter one.

A call of a lane with more slots costs more, but less for each picture. A job that may go into lanes of several slot
counts gets the one that does most for its cost with the pictures that are there.

A CPU may have tracks: parts of its threads, each of which has a lane work beside the others. That does more in all, as
threads that compute one call together wait for each other; a job that is alone is done sooner on all threads. So turns
are taken on tracks when there is work for more than one lane, and else on the whole device.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

from instantrt.denoise import LoopShape
from instantrt_serve.scheduler.fair import FairJob, order

LEAST_CALL_MS = 1e-3
NEW_LANE = -1  # its number as long as it is only thought of


@dataclass(frozen=True)
class Place:
    """A slot of a lane."""

    lane: int
    slot: int


@dataclass(frozen=True)
class Picture:
    """One picture of a job.

    Args:
        left: network calls that it still needs; 0 when it is done.
        place: where it is being made; None before and after.
    """

    left: int
    place: Place | None = None


@dataclass(frozen=True)
class Job:
    """A job that is not done.

    Args:
        name: unique.
        shape: of the lanes that can make its pictures; where several can, the one with the fewest slots.
        pictures: all of them, also those that are done.
        call_ms: work of one network call of one picture: a call of a lane of ``shape`` divided by its slots.
        deadline_s: when its answer is of no use any more, on the clock of :attr:`State.now_s`.
        is_ready: whether it can begin, i.e. its photos are decoded.
        pause_calls: most calls before something is to be told of it.
        wider: lanes with more slots that can make its pictures as well.
    """

    name: str
    shape: LoopShape
    pictures: tuple[Picture, ...]
    call_ms: float
    deadline_s: float | None = None
    is_ready: bool = True
    pause_calls: int | None = None
    wider: tuple[LoopShape, ...] = ()

    @property
    def shapes(self) -> tuple[LoopShape, ...]:
        """Of all lanes that can make its pictures, the fewest slots first."""
        return (self.shape, *self.wider)

    @property
    def left_ms(self) -> float:
        """Work that it still needs."""
        return self.call_ms * sum(picture.left for picture in self.pictures)

    @property
    def has_begun(self) -> bool:
        """Whether one of its pictures is in a lane."""
        return any(picture.place for picture in self.pictures)


@dataclass(frozen=True)
class Lane:
    """A batch of slots on the device.

    Args:
        number: unique.
        shape: slots, guidance batch and picture size.
        used: grows from one turn of any lane to the next; the least was used longest ago.
    """

    number: int
    shape: LoopShape
    used: int = 0


@dataclass(frozen=True)
class Limits:
    """What the device bears.

    Args:
        lanes: at the same time.
        turn_ms: of a lane before others are looked at again.
        turn_calls: likewise, in network calls.
        fixed_ms: of each job outside its network calls.
        slot_costs: by slot count, what a lane's call costs in units of :attr:`Job.call_ms`; where it is not known, the
            count itself.
        tracks: lanes that may work at once, each on its part of the threads.
        track_costs: as ``slot_costs``, of a call on a track while all tracks work; where it is not known, the count
            times ``tracks``.
    """

    lanes: int
    turn_ms: float = 50.0
    turn_calls: int = 8
    fixed_ms: float = 0.0
    slot_costs: Mapping[int, float] = field(default_factory=dict)
    tracks: int = 1
    track_costs: Mapping[int, float] = field(default_factory=dict)

    def cost(self, slots: int, *, on_track: bool = False) -> float:
        """Of a call of a lane with so many slots."""
        if on_track:
            return self.track_costs.get(slots, float(slots * self.tracks))
        return self.slot_costs.get(slots, float(slots))


@dataclass(frozen=True)
class State:
    """All that a decision depends on.

    Args:
        jobs: those that are not done, in the order of their arrival.
        fair: how far they are on the imagined device, and those that it has not done yet although they are done.
        lanes: those that are open.
        limits: what the device bears.
        now_s: the time on any clock.
        working: lanes that are at work on tracks now: these do not take part in the decision.
    """

    jobs: tuple[Job, ...]
    fair: Mapping[str, FairJob]
    lanes: tuple[Lane, ...]
    limits: Limits
    now_s: float
    working: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Join:
    """A picture of a job is put into a slot."""

    job: str
    picture: int
    slot: int


@dataclass(frozen=True)
class Turn:
    """What the device does next.

    Args:
        lane: that works; None opens a new one.
        shape: its shape.
        closes: a lane that is closed before a new one is opened.
        joins: pictures that are put into its free slots first.
        calls: network calls.
        on_track: whether it has a part of the device, beside others, and not the whole of it.
    """

    lane: int | None
    shape: LoopShape
    closes: int | None
    joins: tuple[Join, ...]
    calls: int
    on_track: bool = False


@dataclass(frozen=True)
class Decision:
    """Jobs that cannot keep their deadline any more, and the next turn, if there is anything to do."""

    expired: tuple[str, ...]
    turn: Turn | None


def decide(state: State) -> Decision:
    """What the device does next."""
    expired = tuple(job.name for job in state.jobs if _is_late(job, state.now_s))
    jobs = {job.name: job for job in state.jobs if job.name not in expired}
    ordered = _most_urgent_first([jobs[name] for name in order(state.fair) if name in jobs], state)
    if state.limits.tracks > 1 and len(state.working) < state.limits.tracks:
        turn = _next_turn(ordered, state, on_track=True)
        if turn is not None and (state.working or _leaves_another(turn, ordered, state)):
            return Decision(expired, turn)
    return Decision(expired, None if state.working else _next_turn(ordered, state, on_track=False))


def _next_turn(jobs: list[Job], state: State, *, on_track: bool) -> Turn | None:
    """That of the first job that can go on or begin."""
    taken = _taken(jobs)
    for job in jobs:
        choice = _lane_of(job, jobs, taken, state, on_track=on_track)
        if choice is not None:
            return _turn(choice, jobs, taken, state.limits, on_track=on_track)
    return None


def _leaves_another(turn: Turn, jobs: list[Job], state: State) -> bool:
    """Whether another lane could work while that turn is taken."""
    number = NEW_LANE if turn.lane is None else turn.lane
    places = {(join.job, join.picture): Place(number, join.slot) for join in turn.joins}
    lanes = [lane for lane in state.lanes if lane.number not in (number, turn.closes)]
    later = replace(state, lanes=(*lanes, Lane(number, turn.shape)), working=state.working | {number})
    return _next_turn([_placed(job, places) for job in jobs], later, on_track=True) is not None


def _placed(job: Job, places: Mapping[tuple[str, int], Place]) -> Job:
    pictures = enumerate(job.pictures)
    return replace(job, pictures=tuple(replace(p, place=places.get((job.name, n), p.place)) for n, p in pictures))


@dataclass(frozen=True)
class _Choice:
    lane: int | None
    shape: LoopShape
    closes: int | None = None


def _is_late(job: Job, now_s: float) -> bool:
    """Whether a job could not keep its deadline even if it had the device for itself from now on."""
    if job.deadline_s is None:
        return False
    return now_s + job.call_ms * max((picture.left for picture in job.pictures), default=0) / 1e3 > job.deadline_s


def _most_urgent_first(jobs: list[Job], state: State) -> list[Job]:
    """The jobs as they are, as long as all can still be done in time if the earliest deadline is served first from the
    next turn but one on; else the job with the earliest deadline before all others.

    A job that could not be done in time even so is not waited for: it takes its chance in the jobs' order.
    """
    needed_ms, first = 2 * state.limits.turn_ms, None
    dated = [(job.deadline_s, job) for job in jobs if job.deadline_s is not None]
    for deadline_s, job in sorted(dated, key=lambda pair: pair[0]):
        left_ms = (deadline_s - state.now_s) * 1e3
        own_ms = job.left_ms + state.limits.fixed_ms
        if needed_ms - 2 * state.limits.turn_ms + own_ms > left_ms:
            continue
        needed_ms += own_ms
        first = first or job
        if needed_ms > left_ms:
            return [first, *(other for other in jobs if other is not first)]
    return jobs


def _lane_of(job: Job, jobs: list[Job], taken: dict[int, set[int]], state: State, *, on_track: bool) -> _Choice | None:
    """Where a job can go on or begin; None if it cannot now."""
    mine = {picture.place.lane for picture in job.pictures if picture.place is not None}
    lanes = [lane for lane in state.lanes if lane.number not in state.working]
    for lane in lanes:
        if lane.number in mine:
            return _Choice(lane.number, lane.shape)
    if not job.is_ready or all(picture.place is not None or picture.left == 0 for picture in job.pictures):
        return None
    for lane in lanes:
        if lane.shape in job.shapes and 0 < len(taken.get(lane.number, ())) < lane.shape.slots:
            return _Choice(lane.number, lane.shape)
    return _new_lane(job, jobs, taken, state, on_track=on_track)


def _new_lane(job: Job, jobs: list[Job], taken: dict[int, set[int]], state: State, *, on_track: bool) -> _Choice | None:
    used = taken.keys() | state.working
    free = state.limits.lanes - len(used)
    if free < 1 or (free == 1 < state.limits.lanes and not _is_shortest(job, jobs)):
        return None
    shape = max(job.shapes, key=lambda shape: _gain(shape, jobs, state.limits, on_track=on_track))  # or fewest slots
    idle = sorted((lane for lane in state.lanes if lane.number not in used), key=lambda lane: lane.used)
    for lane in reversed(idle):
        if lane.shape == shape:
            return _Choice(lane.number, shape)
    return _Choice(None, shape, idle[0].number if idle and len(state.lanes) >= state.limits.lanes else None)


def _gain(shape: LoopShape, jobs: Sequence[Job], limits: Limits, *, on_track: bool) -> float:
    """What a new lane of that shape does for its cost with the pictures that it begins with, until all are done."""
    lefts = [picture.left for _, _, picture in islice(_waiting(shape, jobs), shape.slots)]
    return sum(lefts) / (limits.cost(shape.slots, on_track=on_track) * max(lefts))


def _is_shortest(job: Job, jobs: list[Job]) -> bool:
    return all(job.left_ms < other.left_ms for other in jobs if other.has_begun)


def _turn(choice: _Choice, jobs: list[Job], taken: dict[int, set[int]], limits: Limits, *, on_track: bool) -> Turn:
    used = set() if choice.lane is None else taken.get(choice.lane, set())
    joins = tuple(_joins(choice, jobs, used))
    joining = {(join.job, join.picture) for join in joins}
    picture_call_ms = max(job.call_ms for job in jobs if choice.shape in job.shapes)
    lane_call_ms = limits.cost(choice.shape.slots, on_track=on_track) * picture_call_ms
    calls = max(1, int(min(limits.turn_calls, limits.turn_ms / max(lane_call_ms, LEAST_CALL_MS))))
    for job in jobs:
        for index, picture in enumerate(job.pictures):
            is_here = picture.place is not None and picture.place.lane == choice.lane
            if is_here or (job.name, index) in joining:
                calls = min(calls, picture.left, job.pause_calls or calls)
    return Turn(choice.lane, choice.shape, choice.closes, joins, calls, on_track)


def _joins(choice: _Choice, jobs: list[Job], used: set[int]) -> Iterator[Join]:
    """Pictures for the free slots of a lane: idle slots cost about as much as working ones."""
    free = (slot for slot in range(choice.shape.slots) if slot not in used)
    for slot, (job, index, _) in zip(free, _waiting(choice.shape, jobs), strict=False):
        yield Join(job.name, index, slot)


def _waiting(shape: LoopShape, jobs: Iterable[Job]) -> Iterator[tuple[Job, int, Picture]]:
    """Pictures that could begin in a lane of that shape."""
    for job in jobs:
        if shape in job.shapes and job.is_ready:
            for index, picture in enumerate(job.pictures):
                if picture.place is None and picture.left > 0:
                    yield job, index, picture


def _taken(jobs: list[Job]) -> dict[int, set[int]]:
    """Slots in use, by lane."""
    taken: dict[int, set[int]] = {}
    for job in jobs:
        for picture in job.pictures:
            if picture.place is not None:
                taken.setdefault(picture.place.lane, set()).add(picture.place.slot)
    return taken
