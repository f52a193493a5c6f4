"""The load test of servers: its arithmetic by hand, and a short run on nano."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from instantrt import GenerateRequest
from instantrt_bench.cases.portrait import portrait_jpeg
from instantrt_bench.serving.alone import runtime_fields
from instantrt_bench.serving.books import Charge, credit_error
from instantrt_bench.serving.client import Clients, server_timing
from instantrt_bench.serving.load import run_load
from instantrt_bench.serving.mix import Asked, Mix
from instantrt_bench.serving.outcome import CANCELLED, DONE, FAILED, REFUSED, Answer, fifo_latency_ms, short_wait_ratio
from instantrt_bench.serving.server import Server


def asked(name: str, steps: int = 4) -> Asked:
    return Asked(name, 0, 0, "photo", {"num_inference_steps": steps, "samples": 1})


def answer(
    name: str, outcome: str = DONE, sent_s: float = 0, answered_s: float = 0, steps: int = 4, *charges: str
) -> Answer:
    return Answer(asked(name, steps), outcome, sent_s, answered_s, (), charges or (name,))


def test_a_mix_is_the_same_for_the_same_seed_and_every_request_in_it_can_be_made() -> None:
    mix = Mix(200, 8, 4, ["a", "b"], [(64, 64), (128, 64)])
    drawn = mix.draw()
    assert drawn == mix.draw()
    assert drawn != Mix(200, 8, 4, ["a", "b"], [(64, 64), (128, 64)], seed=1).draw()
    assert len({one.id for one in drawn}) == 200
    assert any(one.cancel_after_s is not None for one in drawn)
    assert any(one.twice for one in drawn)
    assert {one.body["samples"] for one in drawn} == {1, 2, 3, 4}
    for one in drawn:
        GenerateRequest(face=b"", **runtime_fields(one.body))


def test_first_come_first_served_makes_a_short_request_wait_for_a_long_one() -> None:
    answers = [
        answer("long", sent_s=0, answered_s=1.1, steps=100),
        answer("short", sent_s=0.1, answered_s=0.3),
    ]
    service_ms = {"long": 1000.0, "short": 100.0}
    assert fifo_latency_ms(answers, service_ms) == pytest.approx({"long": 1000.0, "short": 1000.0})
    assert short_wait_ratio(answers, service_ms) == pytest.approx(100 / 900)
    assert short_wait_ratio(answers[:1], service_ms) is None


@pytest.mark.parametrize(
    ("answers", "charges", "left", "error"),
    [
        ([answer("a")], {"a": Charge(3, "committed")}, 97, 0),
        ([answer("a")], {"a": Charge(3, "committed")}, 96, 1),  # a credit vanished
        ([answer("a")], {"a": Charge(3, "refunded")}, 100, 3),  # done for nothing
        ([answer("a")], {}, 100, 1),
        ([answer("a", DONE, 0, 0, 4, "x", "y")], {"x": Charge(3, "committed"), "y": Charge(3, "committed")}, 94, 3),
        ([answer("a", FAILED)], {"a": Charge(3, "refunded")}, 100, 0),
        ([answer("a", FAILED)], {"a": Charge(3, "committed")}, 97, 3),  # paid for nothing
        ([answer("a", CANCELLED)], {"a": Charge(3, "committed")}, 97, 0),
        ([answer("a", CANCELLED)], {"a": Charge(3, "reserved")}, 97, 6),  # neither paid nor given back
    ],
)
def test_credits_that_are_not_where_they_belong_are_counted(
    answers: list[Answer], charges: dict[str, Charge], left: int, error: int
) -> None:
    assert credit_error(answers, charges, 100, left) == error


def test_server_timing_is_read() -> None:
    assert server_timing("queue;dur=1.5, denoise;dur=20.0") == {"queue": 1.5, "denoise": 20.0}


def test_a_refusal_keeps_the_time_that_the_server_says() -> None:
    headers = {"server-timing": "total;dur=4.5", "x-request-id": "a"}
    transport = httpx.MockTransport(lambda _: httpx.Response(429, headers=headers, text="full"))

    async def refused() -> Answer:
        async with httpx.AsyncClient(base_url="http://server", transport=transport) as http:
            return await Clients("http://server", ["key"], {"photo": b"photo"}).send(http, asked("a", 4))

    got = asyncio.run(refused())
    assert (got.outcome, got.server_ms, got.detail) == (REFUSED, 4.5, "429 full")


def test_nothing_is_lost_mixed_up_or_charged_wrongly_in_a_short_run(nano_bundle: Path, tmp_path: Path) -> None:
    mix = Mix(10, 4, 2, ["photo"], [(64, 64)], cancelled=0.1, twice=0.3)
    with Server(nano_bundle, tmp_path, {"timeout_s": 300}, threads=1) as server:
        figures = run_load(server, mix, {"photo": portrait_jpeg()}, overhead_runs=2)
    wrong = ("lost", "duplicated", "different_pictures", "different_from_generate", "credit_error")
    assert {name: figures[name] for name in wrong} == dict.fromkeys(wrong, 0), figures
    assert figures["done"] + figures["cancelled"] == 10
