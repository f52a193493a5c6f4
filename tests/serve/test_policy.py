"""The scheduling policy: fair between accounts, short jobs before long ones, nobody starved, no slot used twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from instantrt.denoise import LoopShape
from instantrt_serve.scheduler.device import CountingDevice
from instantrt_serve.scheduler.fair import FairJob, account_service_ms, advanced, order, water_level
from instantrt_serve.scheduler.policy import Job, Limits, Picture, Turn, decide

CALL_MS = 10.0
SHAPES = [LoopShape(1, 2, 64, 64), LoopShape(1, 1, 64, 64), LoopShape(1, 2, 128, 128)]


def job(
    name: str, calls: int, account: str = "a", pictures: int = 1, shape: LoopShape = SHAPES[0], call_ms: float = CALL_MS
) -> Job:
    """The name says whose it is: ``account/name``."""
    return Job(f"{account}/{name}", shape, (Picture(calls),) * pictures, call_ms)


def account_of(job: Job) -> str:
    return job.name.partition("/")[0]


def add(device: CountingDevice, *jobs: Job) -> None:
    for arriving in jobs:
        device.add(arriving, account_of(arriving))


def ends(device: CountingDevice, arrivals: Mapping[float, list[Job]]) -> dict[str, float]:
    """When each job ends, in seconds, if jobs arrive at these times."""
    waiting, now_s, ended = dict(sorted(arrivals.items())), 0.0, {}
    while waiting or device.jobs:
        for at_s in [at_s for at_s in waiting if at_s <= now_s]:
            for arriving in waiting.pop(at_s):
                add(device, arriving)
        turn = device.turn(now_s)
        if turn is None:
            now_s = min(waiting)
            continue
        now_s += turn[0]
        ended |= {left.job.partition("/")[2]: left.at_s for left in turn[1]}
    return ended


def fair_ends(arrivals: Mapping[float, list[Job]], step_ms: float = 1.0) -> dict[str, float]:
    """When each job would end if accounts shared the device, written out in small steps of time."""
    left: dict[str, dict[str, float]] = {}
    waiting, now_ms, ended = dict(sorted(arrivals.items())), 0.0, {}
    while waiting or any(left.values()):
        for at_s in [at_s for at_s in waiting if at_s * 1e3 <= now_ms + 1e-9]:
            for arriving in waiting.pop(at_s):
                left.setdefault(account_of(arriving), {})[arriving.name.partition("/")[2]] = arriving.left_ms
        active = {account: jobs for account, jobs in left.items() if jobs}
        for jobs in active.values():
            share = step_ms / len(active) / len(jobs)
            for name in list(jobs):
                jobs[name] -= share
                if jobs[name] <= 1e-9:
                    del jobs[name]
                    ended[name] = (now_ms + step_ms) / 1e3
        now_ms += step_ms
    return ended


def test_a_short_job_overtakes_a_long_one_and_costs_it_only_its_own_length() -> None:
    device = CountingDevice(Limits(lanes=2))
    ended = ends(device, {0.0: [job("long", 100)], 0.2: [job("short", 4)]})
    assert ended["short"] == pytest.approx(0.2 + 0.05 + 0.04, abs=0.051), "at most a turn, then its own 4 calls"
    assert ended["long"] == pytest.approx(1.04)


def test_with_one_lane_jobs_wait_for_each_other() -> None:
    ended = ends(CountingDevice(Limits(lanes=1)), {0.0: [job("long", 100)], 0.2: [job("short", 4)]})
    assert ended == {"long": pytest.approx(1.0), "short": pytest.approx(1.04)}


def test_a_flood_of_one_account_does_not_hold_up_another() -> None:
    flood = [job(f"flood-{n}", 20, "greedy") for n in range(50)]
    ended = ends(CountingDevice(Limits(lanes=4)), {0.0: flood, 0.01: [job("one", 20, "modest")]})
    assert ended["one"] < 0.5


def test_short_jobs_that_keep_coming_do_not_starve_a_long_one() -> None:
    """They ask for all the device can do; sharing gives the long one half, as it is of another account."""
    shorts = {0.04 * n: [job(f"short-{n}", 4, "many")] for n in range(200)}
    shorts[0.0] = [*shorts[0.0], job("long", 100, "one")]
    ended = ends(CountingDevice(Limits(lanes=4)), shorts)
    assert ended["long"] < 2.0 + 0.2


def test_slots_of_a_lane_are_filled_with_jobs_of_its_shape() -> None:
    shape = LoopShape(4, 2, 64, 64)
    jobs = [job("a", 8, pictures=2, shape=shape), job("b", 30, "b"), job("c", 9, "c", shape=shape)]
    device = CountingDevice(Limits(lanes=2))
    add(device, *jobs)
    first = decide(device.state(0.0)).turn
    assert first is not None
    assert [(join.job, join.picture, join.slot) for join in first.joins] == [
        ("c/c", 0, 0),
        ("a/a", 0, 1),
        ("a/a", 1, 2),
    ]
    assert first.calls == 1, "four slots of 10 ms each take 40 ms of the turn's 50"


WIDE = (LoopShape(2, 2, 64, 64), LoopShape(4, 2, 64, 64))
COSTS = {1: 1.0, 2: 1.75, 4: 3.2}


def first_lane(*jobs: Job) -> tuple[int, list[str]]:
    """Slots of the lane that is opened first for these jobs, and the jobs that begin in it."""
    device = CountingDevice(Limits(lanes=4, slot_costs=COSTS))
    add(device, *jobs)
    turn = decide(device.state(0.0)).turn
    assert turn is not None
    return turn.shape.slots, [join.job.partition("/")[2] for join in turn.joins]


def wide(name: str, calls: int, pictures: int = 1, account: str = "a") -> Job:
    return replace(job(name, calls, account, pictures), wider=WIDE)


@pytest.mark.parametrize(
    ("jobs", "lane"),
    [
        ([wide("one", 10)], (1, ["one"])),
        ([wide("four", 10, 4)], (4, ["four"] * 4)),
        ([wide("three", 10, 3)], (2, ["three"] * 2)),  # a lane of four would cost more than it does
        ([wide("a", 10), wide("b", 10)], (2, ["a", "b"])),
        ([wide("a", 10), wide("b", 4)], (1, ["b"])),  # most of the time half of the lane would be idle
        ([wide(name, 10) for name in "abcde"], (4, ["a", "b", "c", "d"])),
        ([job("narrow", 10, pictures=4)], (1, ["narrow"])),
    ],
    ids=lambda value: ",".join(str(job.name) for job in value) if isinstance(value, list) else str(value[0]),
)
def test_a_new_lane_has_as_many_slots_as_pay(jobs: list[Job], lane: tuple[int, list[str]]) -> None:
    assert first_lane(*jobs) == lane


def test_who_comes_later_takes_a_free_slot_of_a_wider_lane() -> None:
    device = CountingDevice(Limits(lanes=4, slot_costs=COSTS))
    add(device, wide("early", 30, 2), wide("too", 30), wide("also", 30))
    device.turn(0.0)
    device.remove("a/too")
    add(device, wide("late", 4))
    turn = decide(device.state(0.1)).turn
    assert turn is not None
    assert (turn.shape.slots, [join.job for join in turn.joins]) == (4, ["a/late"])


def test_wider_lanes_do_more_in_the_same_time() -> None:
    crowd = {0.0: [wide(f"{n}", 10) for n in range(32)]}
    narrow = {0.0: [job(f"{n}", 10) for n in range(32)]}
    took = [max(ends(CountingDevice(Limits(4, slot_costs=COSTS)), jobs).values()) for jobs in (crowd, narrow)]
    assert took == [pytest.approx(3.2 * 0.8), pytest.approx(3.2)]


TWO_TRACKS = Limits(lanes=4, tracks=2, track_costs={1: 1.6, 2: 3.0, 4: 5.6})


def ends_on_tracks(limits: Limits, arrivals: Mapping[float, list[Job]]) -> tuple[dict[str, float], list[Turn]]:
    """When each job ends, in seconds, and all turns that were taken."""
    device, turns, ended = CountingDevice(limits), list[Turn](), dict[str, float]()
    waiting, working, now_s = dict(sorted(arrivals.items())), dict[int, float](), 0.0
    while waiting or working or device.jobs:
        for at_s in [at_s for at_s in waiting if at_s <= now_s]:
            for arriving in waiting.pop(at_s):
                add(device, arriving)
        turn, _ = device.decide(now_s)
        if turn is not None:
            assert turn.lane not in working
            assert turn.on_track or not working, "the whole device is free"
            lane, duration_ms = device.begin(turn)
            working[lane] = now_s + duration_ms / 1e3
            turns.append(turn)
            assert len(working) <= limits.tracks
            if turn.on_track:
                continue
        now_s = min([*working.values(), *(at_s for at_s in waiting if not (turn and not turn.on_track))])
        for lane in [lane for lane, end_s in working.items() if end_s <= now_s]:
            del working[lane]
            ended |= {left.job.partition("/")[2]: left.at_s for left in device.end(lane, now_s)}
    return ended, turns


def test_a_job_alone_has_the_whole_device_and_two_have_a_track_each() -> None:
    ended, turns = ends_on_tracks(TWO_TRACKS, {0.0: [job("one", 20)], 0.1: [job("two", 20)]})
    assert [turn.on_track for turn in turns[:2]] == [False, False]
    assert ended["one"] == pytest.approx(0.1 + 0.16, abs=0.05), "its last half at 16 ms a call"
    assert ended["two"] == pytest.approx(0.1 + 0.16 + 0.1, abs=0.05), "its last half alone"
    assert not turns[-1].on_track


def test_tracks_do_more_in_all() -> None:
    crowd = {0.0: [job(f"{n}", 10, account=f"{n}") for n in range(12)]}
    ended, turns = ends_on_tracks(TWO_TRACKS, crowd)
    assert max(ended.values()) == pytest.approx(1.2 * 1.6 / 2, abs=0.01)
    assert all(turn.on_track for turn in turns)


def test_on_tracks_a_short_job_overtakes_a_long_one() -> None:
    longs = [job("long", 100), job("other", 100, "b")]
    ended, _ = ends_on_tracks(TWO_TRACKS, {0.0: longs, 0.2: [job("short", 4, "c")]})
    assert ended["short"] < 0.2 + 0.05 + 0.064 + 0.01, "at most a turn, then its own 4 calls"


def test_lanes_on_tracks_have_as_many_slots_as_pay_there() -> None:
    crowd = {0.0: [wide("four", 10, 4), wide("more", 10, 4, "b"), job("one", 10, "c", call_ms=4.0)]}
    _, turns = ends_on_tracks(replace(TWO_TRACKS, slot_costs=COSTS), crowd)
    assert [(turn.shape.slots, turn.on_track) for turn in turns if turn.joins] == [(1, True), (4, True), (4, True)]
    narrow = replace(TWO_TRACKS, slot_costs=COSTS, track_costs={1: 1.6, 2: 3.2, 4: 6.4})
    _, turns = ends_on_tracks(narrow, crowd)
    assert {turn.shape.slots for turn in turns if turn.on_track} == {1}


def test_pictures_that_share_a_lane_have_the_whole_device_if_nobody_else_is_there() -> None:
    ended, turns = ends_on_tracks(replace(TWO_TRACKS, slot_costs=COSTS), {0.0: [wide("four", 10, 4)]})
    assert {(turn.shape.slots, turn.on_track) for turn in turns} == {(4, False)}
    assert ended == {"four": pytest.approx(0.32)}


def test_a_turn_ends_when_something_is_due() -> None:
    device = CountingDevice(Limits(lanes=1))
    add(device, replace(job("shown", 100), pause_calls=3))
    turn = decide(device.state(0.0)).turn
    assert turn is not None
    assert turn.calls == 3


def test_a_job_that_is_not_ready_does_not_hold_up_others() -> None:
    device = CountingDevice(Limits(lanes=1))
    add(device, replace(job("undecoded", 4), is_ready=False))
    assert decide(device.state(0.0)).turn is None
    add(device, job("ready", 50))
    turn = decide(device.state(0.0)).turn
    assert turn is not None
    assert [join.job for join in turn.joins] == ["a/ready"]


@pytest.mark.parametrize(("now_s", "expired"), [(0.0, ()), (0.59, ()), (0.61, ("a/late",))])
def test_a_job_is_given_up_when_it_could_not_be_done_in_time_alone(now_s: float, expired: tuple[str, ...]) -> None:
    device = CountingDevice(Limits(lanes=1))
    add(device, replace(job("late", 40), deadline_s=1.0))
    assert decide(device.state(now_s)).expired == expired


def test_a_long_job_is_served_before_short_ones_only_when_its_deadline_asks_for_it() -> None:
    shorts = {0.05 * n: [job(f"short-{n}", 4)] for n in range(60)}
    patient = ends(CountingDevice(Limits(lanes=4)), {**shorts, 0.0: [job("long", 100)]})
    pressed = replace(job("long", 100), deadline_s=1.6)
    assert patient["long"] > 1.6
    assert 1.2 < ends(CountingDevice(Limits(lanes=4)), {**shorts, 0.0: [pressed]})["long"] <= 1.6


def test_an_idle_lane_of_the_shape_is_used_again_and_the_one_used_longest_ago_makes_room() -> None:
    device = CountingDevice(Limits(lanes=2))
    for number, shape in enumerate([SHAPES[0], SHAPES[1], SHAPES[1], SHAPES[2]]):
        ends(device, {0.0: [job(str(number), 4, shape=shape)]})
    assert [lane.shape for lane in device.lanes.values()] == [SHAPES[1], SHAPES[2]]


JOBS = st.builds(
    lambda calls, account, pictures, shape: (calls, account, pictures, shape),
    st.integers(4, 60),
    st.sampled_from("abc"),
    st.integers(1, 3),
    st.sampled_from(SHAPES),
)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 600), JOBS), min_size=1, max_size=7))
def test_no_job_ends_later_than_if_the_device_were_shared(
    arrivals: list[tuple[int, tuple[int, str, int, LoopShape]]],
) -> None:
    """The theorem of the fair sojourn protocol, with lanes for all; a turn cannot be interrupted."""
    jobs: dict[float, list[Job]] = {}
    for number, (at_ms, (calls, account, pictures, shape)) in enumerate(arrivals):
        jobs.setdefault(at_ms / 1e3, []).append(job(str(number), calls, account, pictures, shape))
    ended = ends(CountingDevice(Limits(lanes=16)), jobs)
    fair = fair_ends(jobs)
    turn_s = 0.05
    late = {name: (at_s, fair[name]) for name, at_s in ended.items() if at_s > fair[name] + turn_s + 0.01}
    assert not late


class Policy(RuleBasedStateMachine):
    """Jobs come, go on and are cancelled in any order, on a device with few lanes and several slots."""

    @initialize(
        lanes=st.integers(1, 4), slots=st.sampled_from([(1,), (2,), (4,), (1, 2, 4), (2, 4)]), tracks=st.integers(1, 3)
    )
    def begin(self, lanes: int, slots: tuple[int, ...], tracks: int) -> None:
        costs = COSTS if slots[0] == 1 else {}
        self.device = CountingDevice(Limits(lanes, slot_costs=costs, tracks=tracks, track_costs={1: 1.6}))
        self.now_s, self.count, self.cancelled, self.working = 0.0, 0, False, dict[int, Turn]()
        self.shapes = [[replace(shape, slots=count) for count in slots] for shape in SHAPES]

    @rule(calls=st.integers(1, 30), account=st.sampled_from("abc"), pictures=st.integers(1, 4), shape=st.integers(0, 2))
    def arrive(self, calls: int, account: str, pictures: int, shape: int) -> None:
        self.count += 1
        narrow, *wider = self.shapes[shape]
        add(self.device, replace(job(str(self.count), calls, account, pictures, narrow), wider=tuple(wider)))

    @precondition(lambda self: self.device.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.cancelled = True
        self.device.remove(data.draw(st.sampled_from(sorted(self.device.jobs))))

    @rule()
    def turn(self) -> None:
        before = self.device.left_ms
        turn, _ = self.device.decide(self.now_s)
        if turn is None:
            assert self.working or before == 0, "the device is never idle while there is work"
            return
        assert turn.lane not in self.working
        assert turn.closes not in self.working
        assert not self.working or turn.on_track
        assert len(self.working) < self.device.limits.tracks
        lane, duration_ms = self.device.begin(turn)
        if turn.on_track:
            self.working[lane] = turn
        else:
            self.now_s += duration_ms / 1e3
            self.device.end(lane, self.now_s)

    @precondition(lambda self: self.working)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        lane = data.draw(st.sampled_from(sorted(self.working)))
        del self.working[lane]
        self.now_s += 0.01
        self.device.end(lane, self.now_s)

    @invariant()
    def no_slot_is_used_twice(self) -> None:
        places = [p.place for job in self.device.jobs.values() for p in job.pictures if p.place is not None]
        assert len(places) == len(set(places))
        assert all(place.slot < self.device.lanes[place.lane].shape.slots for place in places)

    @invariant()
    def both_devices_have_as_much_left_to_do_unless_jobs_were_cancelled(self) -> None:
        imagined = sum(job.left_ms for job in self.device.imagined.jobs.values())
        assert self.cancelled or imagined == pytest.approx(self.device.left_ms, abs=1e-3)

    @invariant()
    def lanes_stay_within_their_bound_and_hold_only_their_shape(self) -> None:
        assert len(self.device.lanes) <= self.device.limits.lanes
        for waiting in self.device.jobs.values():
            lanes = {picture.place.lane for picture in waiting.pictures if picture.place}
            assert all(self.device.lanes[lane].shape in waiting.shapes for lane in lanes)

    def teardown(self) -> None:
        for lane in getattr(self, "working", ()):
            self.device.end(lane, self.now_s)
        for _ in range(100_000):
            if not hasattr(self, "device") or self.device.turn(self.now_s) is None:
                break
        assert not hasattr(self, "device") or not self.device.jobs, "every job ends"


Policy.TestCase.settings = settings(max_examples=30, stateful_step_count=30)
test_jobs_in_any_order = Policy.TestCase

LEFTS = st.dictionaries(
    st.text("xyz0123", min_size=1, max_size=3), st.tuples(st.sampled_from("abc"), st.floats(0.01, 1e4))
)


@given(LEFTS.filter(bool), st.floats(0, 1))
def test_the_imagined_device_does_exactly_the_work_it_is_given(
    lefts: dict[str, tuple[str, float]], part: float
) -> None:
    jobs = {name: FairJob(account, left) for name, (account, left) in lefts.items()}
    total = sum(job.left_ms for job in jobs.values())
    after = advanced(jobs, part * total, 0.0)
    assert sum(job.left_ms for job in after.values()) == pytest.approx((1 - part) * total, abs=1e-6 * total + 1e-6)
    assert all(after[name].left_ms <= jobs[name].left_ms for name in jobs)


@given(LEFTS.filter(bool))
def test_jobs_end_on_the_imagined_device_in_the_order_told_before(lefts: dict[str, tuple[str, float]]) -> None:
    jobs = {name: FairJob(account, left) for name, (account, left) in lefts.items()}
    told, service, clock = order(jobs), account_service_ms(jobs), 0.0
    total = sum(job.left_ms for job in jobs.values())
    for _ in range(7):
        jobs = advanced(jobs, total / 5, clock)
        clock += total / 5
    assert all(job.ended_ms is not None for job in jobs.values())
    ended = [service[name] for name in order(jobs)]
    assert ended == pytest.approx([service[name] for name in told])


@given(st.lists(st.floats(0, 100), max_size=6), st.floats(0, 700))
def test_water_finds_one_level(capacities: list[float], amount: float) -> None:
    level = water_level(amount, capacities)
    assert sum(min(level, capacity) for capacity in capacities) == pytest.approx(min(amount, sum(capacities)))
