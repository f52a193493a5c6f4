"""Callers take turns, and none of them waits for itself."""

from __future__ import annotations

from threading import Event, Thread

import pytest

from instantrt.errors import PipelineError
from instantrt.turns import Turns

HINT = "another thread"


def test_a_call_of_another_thread_waits_for_its_turn() -> None:
    turns, order, started = Turns("the machine"), [], Event()

    def call() -> None:
        started.set()
        with turns.take():
            order.append("second")

    with turns.take():
        waiting = Thread(target=call)
        waiting.start()
        started.wait()
        waiting.join(0.05)
        assert waiting.is_alive()
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize("again", ["take", "take_last"])
def test_a_call_within_a_turn_is_an_error_instead_of_a_hang(again: str) -> None:
    turns = Turns("the machine")
    with turns.take():
        with pytest.raises(PipelineError, match="the machine was called while this thread waits for it") as refused:
            getattr(turns, again)().__enter__()
        assert HINT in str(refused.value)
    with turns.take():
        pass  # the refused call has left nothing behind


def test_a_turn_ends_when_its_block_raises() -> None:
    turns = Turns("the machine")
    with pytest.raises(ZeroDivisionError), turns.take():
        raise ZeroDivisionError
    with turns.take():
        pass


def test_after_the_last_turn_come_only_last_ones() -> None:
    turns = Turns("the machine")
    with turns.take_last():
        pass
    with turns.take_last():
        pass
    with pytest.raises(PipelineError, match="the machine is closed"):
        turns.take().__enter__()
