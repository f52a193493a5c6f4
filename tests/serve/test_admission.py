"""Who is taken and who is told to come again: bounds, parts of accounts, deadlines, times to wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instantrt_serve.admission import MAX_RETRY_S, Accepted, AdmissionLimits, OpenWork, Refused, admit

LIMITS = AdmissionLimits(jobs=8, photo_bytes=1000, wait_s=100)


def queue(*jobs: tuple[str, float]) -> list[OpenWork]:
    return [OpenWork(account, ms) for account, ms in jobs]


def test_an_empty_queue_takes_whatever_can_be_done_in_time() -> None:
    assert admit(OpenWork("a", 1300), [], LIMITS, 2.0) == Accepted(0)
    assert admit(OpenWork("a", 1500), [], LIMITS, 2.0) == Refused("deadline", 1)


def test_a_job_without_a_deadline_is_always_taken_by_an_empty_queue() -> None:
    assert admit(OpenWork("a", 1e9, photo_bytes=10**6), [], LIMITS, None) == Accepted(0)


def test_a_full_queue_takes_nobody() -> None:
    full = queue(*[(str(n), 500.0) for n in range(8)])
    assert admit(OpenWork("new", 1), full, LIMITS, None) == Refused("queue", 1)


def test_one_account_gets_half_the_queue_and_leaves_room_for_others() -> None:
    taken: list[OpenWork] = []
    while isinstance(admit(OpenWork("greedy", 10), taken, LIMITS, None), Accepted):
        taken.append(OpenWork("greedy", 10))
    assert len(taken) == 4
    assert isinstance(admit(OpenWork("modest", 10), taken, LIMITS, None), Accepted)


def test_the_time_to_wait_is_what_the_excess_takes_at_the_measured_speed() -> None:
    work = queue(("a", 6000.0), ("b", 3000.0))
    assert admit(OpenWork("c", 5000), work, LIMITS, 10.0) == Refused("deadline", 7)
    assert admit(OpenWork("c", 5000), work, LIMITS, 10.0, speed=0.5) == Refused("deadline", 21)


def test_photos_are_bounded_by_their_bytes() -> None:
    held = [OpenWork("a", 10, photo_bytes=900)]
    assert admit(OpenWork("b", 10, photo_bytes=200), held, LIMITS, None) == Refused("memory", 1)


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.floats(1, 5000), st.floats(1, 30)), max_size=60),
    st.floats(0.1, 1),
)
def test_all_that_is_taken_can_be_done_before_the_last_of_its_deadlines(
    arrivals: list[tuple[str, float, float]], speed: float
) -> None:
    """Without anything being done in between, which is the worst that can happen before the next decision."""
    taken: list[OpenWork] = []
    latest_s = 0.0
    for account, ms, deadline_s in arrivals:
        answer = admit(OpenWork(account, ms), taken, LIMITS, deadline_s, speed)
        if isinstance(answer, Accepted):
            taken.append(OpenWork(account, ms))
            latest_s = max(latest_s, deadline_s)
        else:
            assert 1 <= answer.retry_after_s <= MAX_RETRY_S
    assert len(taken) <= LIMITS.jobs
    assert sum(job.left_ms for job in taken) <= 0.7 * latest_s * 1e3 * speed + 1e-6


@pytest.mark.parametrize("account", ["old", "new"])
def test_a_refusal_is_final_only_while_the_queue_is_as_full(account: str) -> None:
    work = queue(*[("old", 100.0)] * 8)
    assert isinstance(admit(OpenWork(account, 100), work, LIMITS, 60.0), Refused)
    assert isinstance(admit(OpenWork(account, 100), work[:2], LIMITS, 60.0), Accepted)
