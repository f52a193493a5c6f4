"""Stage times on the host, and what the loop tells of waiting."""

from __future__ import annotations

from time import sleep

import pytest

from instantrt.denoise import LoopRun
from instantrt.device.host import HostDevice, HostEvent
from instantrt.errors import CancelledError
from instantrt.stages import StageClock


def test_stages_are_timed_in_order_and_repeated_ones_added_up() -> None:
    clock = StageClock(HostDevice())
    for name, seconds in (("a", 0.1), ("b", 0.0), ("a", 0.2)):
        with clock.stage(name):
            sleep(seconds)
    times = clock.read_ms()
    assert list(times) == ["a", "b"]
    assert times["a"] >= 300
    assert 0 <= times["b"] < times["a"]


def test_a_stage_inside_another_one_is_not_counted_in_that_one() -> None:
    clock = StageClock(HostDevice())
    for _ in range(2):
        with clock.stage("outer"):
            with clock.stage("inner"):
                sleep(0.1)
            with pytest.raises(ZeroDivisionError), clock.stage("inner"):
                _ = 1 // 0
    with clock.stage("inner"):
        sleep(0.1)
    times = clock.read_ms()
    assert times["inner"] >= 300
    assert 0 <= times["outer"] < 100


def test_a_stage_that_raises_is_not_counted_and_a_restart_forgets() -> None:
    clock = StageClock(HostDevice())
    with pytest.raises(ZeroDivisionError), clock.stage("a"):
        _ = 1 // 0
    with clock.stage("b"):
        pass
    assert list(clock.read_ms()) == ["b"]
    clock.restart()
    with clock.stage("c"):
        pass
    assert list(clock.read_ms()) == ["c"]
    clock.close()
    clock.close()


def test_an_event_that_was_not_recorded_is_not_done_and_gives_no_time() -> None:
    event = HostEvent()
    assert not event.is_done
    with pytest.raises(ValueError, match="recorded"):
        event.ms_since(event)


class LateEvent:
    """Done at the n-th look."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    @property
    def is_done(self) -> bool:
        self.looks -= 1
        return self.looks < 0

    def ms_since(self, earlier: LateEvent) -> float:
        return 1.0

    def close(self) -> None:
        pass


def test_following_waits_by_looking_and_counts_the_wait() -> None:
    told: list[int] = []
    run = LoopRun([LateEvent(n) for n in (0, 3, 0, 5)], lambda done, _: told.append(done), None)
    run.launched = 3
    run.follow(1)
    assert told == [1, 2]
    assert run.waited_ns > 0
    assert len(run.finish().call_ms) == 3
    assert told == [1, 2, 3]


def test_a_cancelled_run_stops_while_waiting_and_says_how_far_it_came() -> None:
    asked = iter([False, False, True])
    run = LoopRun([LateEvent(0), LateEvent(0), LateEvent(10**9)], None, lambda: next(asked))
    run.launched = 2
    with pytest.raises(CancelledError, match="1 of 2 calls done"):
        run.finish()


def test_a_run_that_is_done_is_not_cancelled_any_more() -> None:
    run = LoopRun([LateEvent(0), LateEvent(0)], None, lambda: True)
    run.launched = 1
    assert run.finish().call_ms == (1.0,)
