"""What every answer has: ids, credits, safe headers, a count, and a log line without anything that was sent."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from instantrt_serve.accounts.database import StorageError
from instantrt_serve.accounts.keys import LOCAL_CREDITS
from instantrt_serve.logs import LOGGER, JsonFormatter, log
from serve.conftest import CREDITS, PHOTO_TEXT, Serve
from serve.fake_worker import FakeWorker

pytestmark = pytest.mark.anyio
ORIGIN = "https://shop.example"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged, as it would be written."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonFormatter())
    LOGGER.addHandler(handler)
    LOGGER.setLevel("INFO")
    yield text
    LOGGER.removeHandler(handler)
    LOGGER.setLevel("NOTSET")


async def test_every_answer_has_a_request_id_the_credits_and_safe_headers(serve: Serve) -> None:
    async with serve() as client:
        paths = ("/", "/nothing", "/healthz", "/readyz", "/metrics", "/openapi.json", "/v1/instantid", "/v2/options")
        answers = [await client.get(path, headers={"x-request-id": "mine"}) for path in paths]
    for answer in answers:
        assert len(answer.headers["x-request-id"]) == 32
        assert answer.headers["x-remaining-credits"] == "0"
        assert re.fullmatch(r"total;dur=\d+\.\d", answer.headers["server-timing"])
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] in ("no-store", "no-cache")
        assert "server" not in answer.headers


async def test_logs_hold_ids_and_nothing_that_was_sent(
    serve: Serve, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as client:
        answer = await client.make(prompt="a secret prompt")
        await client.get("/secret-path?secret=query", headers={"x-api-key": "secret key"})
        await client.make(style="secret style")

        def fail(*_: object) -> None:
            raise ValueError("secret value")

        monkeypatch.setattr(client.service.dispatch, "check_room", fail)
        await client.make()
        key = client.key
    text = lines.getvalue()
    found = [json.loads(line) for line in text.splitlines()]
    answers = [line for line in found if line["event"] == "answer"]
    assert [line["status"] for line in answers] == [200, 404, 422, 500]
    assert answers[0]["request_id"] == answer.headers["x-request-id"]
    assert answers[0]["route"] == "/v1/instantid"
    assert answers[0]["key"] == key.split("_")[1]
    (bug,) = [line for line in found if line["event"] == "bug"]
    assert bug["error"] == "ValueError"
    assert any(place.startswith("fail:") for place in bug["trace"])
    assert "secret" not in text
    assert key not in text
    assert PHOTO_TEXT[:50] not in text


def test_values_of_other_loggers_messages_stay_on_one_line(lines: io.StringIO) -> None:
    log("event", key="a\nb")
    (line,) = lines.getvalue().splitlines()
    assert json.loads(line)["key"] == "a\nb"


async def test_requests_and_jobs_are_counted(serve: Serve) -> None:
    async with serve(FakeWorker(die=1)) as client:
        await client.make()
        await client.make(samples=2)
        await client.get("/nothing/of/ours")
        text = (await client.get("/metrics")).text
    for line in (
        'instantrt_http_requests_total{method="POST",route="/v1/instantid",status="200"} 1.0',
        'instantrt_http_requests_total{method="POST",route="/v1/instantid",status="503"} 1.0',
        'instantrt_http_requests_total{method="GET",route="unknown",status="404"} 1.0',
        'instantrt_jobs_total{outcome="done"} 1.0',
        "instantrt_pictures_total 2.0",
        "instantrt_worker_restarts 1.0",
        "instantrt_ready 1.0",
    ):
        assert line in text.splitlines()


async def test_other_origins_are_let_in_from_a_list_only(serve: Serve) -> None:
    preflight = {
        "origin": ORIGIN,
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-api-key",
    }
    async with serve() as client:
        closed = await client.options("/v1/instantid", headers=preflight)
        answer = await client.make(headers={"origin": ORIGIN})
    assert "access-control-allow-origin" not in {*closed.headers, *answer.headers}
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    async with serve(cors_origins=(ORIGIN,)) as client:
        opened = await client.options("/v1/instantid", headers=preflight)
        other = await client.options("/v1/instantid", headers=preflight | {"origin": "https://other.example"})
        answer = await client.make(headers={"origin": ORIGIN})
    assert opened.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-origin" not in other.headers
    assert "x-remaining-credits" in answer.headers["access-control-expose-headers"]


async def test_without_keys_only_this_machine_is_served_and_nothing_costs_anything(serve: Serve) -> None:
    async with serve(no_keys=True) as client:
        refused: list[Any] = [
            {"host": "evil.example"},
            {"host": "192.168.1.5:8000"},
            {"host": "127.0.0.1.evil.example"},
            {"host": "localhost:8000", "origin": "https://evil.example"},
            {"host": "localhost:8000", "origin": "null"},
            {"host": "server"},
        ]
        for headers in refused:
            assert (await client.make(headers=headers)).status_code == 401
        taken: list[Any] = [
            {"host": "localhost:8000", "origin": "http://localhost:8000"},
            {"host": "127.0.0.1"},
            {"host": "[::1]:8000"},
        ]
        for headers in taken:
            answer = await client.make(headers=headers)
            assert answer.status_code == 200
            assert answer.headers["x-remaining-credits"] == str(LOCAL_CREDITS)
        assert (await client.get("/v2/options")).json()["keys"] is False


async def test_provenance_can_be_left_out(serve: Serve) -> None:
    async with serve(provenance=False) as client:
        await client.make()
        assert client.worker.seen[0].tags == {}


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_full_disk_before_the_work_is_a_clear_error(
    version: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as client:
        with monkeypatch.context() as full:
            full.setattr("instantrt_serve.accounts.ledger.reserve", _no_space)
            answer = await client.make(version)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage")
        assert answer.headers["retry-after"]
        assert client.worker.seen == []
        assert await client.credits() == CREDITS


async def test_a_full_disk_after_the_work_loses_no_credit(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("instantrt_serve.books.RETRY_S", 0.02)
    async with serve() as client:
        with monkeypatch.context() as full:
            full.setattr("instantrt_serve.accounts.ledger.settle", _no_space)
            made = await client.make()
            client.worker.die = 1
            lost = await client.make()
            assert await client.credits() == CREDITS - 2
        while client.service.books._unsettled:
            await _pause()
        assert await client.credits() == CREDITS - 1
    assert (made.status_code, lost.status_code) == (200, 503)


async def test_a_job_waits_for_room_on_the_disk(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve() as client:
        with monkeypatch.context() as full:
            full.setattr("instantrt_serve.accounts.jobs.delete", _no_space)
            job = (await client.make("v2")).json()["id"]
            while not client.worker.seen:
                await _pause()
            assert (await client.get(f"/v2/instantid/{job}")).json()["status"] in ("queued", "running")
        while (await client.get(f"/v2/instantid/{job}")).json()["status"] != "done":
            await _pause()
        assert await client.credits() == CREDITS - 1
        assert len(client.worker.seen) == 1


async def test_what_a_dead_server_had_reserved_is_given_back(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve() as client:
        key = await client.service.books.authenticate(client.key)
        await client.service.books.reserve("a job", key, 40)
    async with serve(instance="other") as client:
        assert await client.credits() == CREDITS - 40
    async with serve() as client:
        assert await client.credits() == CREDITS


def _no_space(*_: object, **__: object) -> Any:
    raise StorageError("the server cannot read or write its records", found="SQLITE_FULL", hint="make room")


async def _pause() -> None:
    await asyncio.sleep(0.02)
