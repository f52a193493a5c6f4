"""``/v2/instantid``: jobs are kept, charged once, and done whatever dies."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import pytest

from instantrt_serve.accounts.jobs import JobState
from instantrt_serve.accounts.keys import create_key
from instantrt_serve.messages import Failed
from instantrt_serve.worker_client import WorkerState
from serve.conftest import CREDITS, PHOTO, Client, Serve
from serve.fake_worker import FakeWorker, picture_of

pytestmark = pytest.mark.anyio


async def submit(client: Client, **fields: Any) -> dict[str, Any]:
    answer = await client.make("v2", **fields)
    assert answer.status_code == 202
    view: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v2/instantid/{view['id']}"
    return view


async def view_of(client: Client, job: str) -> dict[str, Any]:
    view: dict[str, Any] = (await client.get(f"/v2/instantid/{job}")).json()
    return view


async def ended(client: Client, job: str) -> dict[str, Any]:
    while (view := await view_of(client, job))["status"] in ("queued", "running"):
        await asyncio.sleep(0.01)
    return view


async def events_of(client: Client, job: str) -> list[tuple[str, dict[str, Any]]]:
    answer = await client.get(f"/v2/instantid/{job}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in answer.text.split("\n\n") if block.startswith("event")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


async def test_a_job_is_submitted_polled_and_fetched(serve: Serve) -> None:
    gate = asyncio.Event()
    async with serve(FakeWorker(gate=gate)) as client:
        first, second = await submit(client, samples=2), await submit(client, seed=8)
        while len(client.worker.seen) < 2:
            await asyncio.sleep(0.01)
        assert first["status"] == "queued"
        assert [(await view_of(client, job["id"]))["queue_place"] for job in (first, second)] == [1, 2]
        gate.set()
        view = await ended(client, first["id"])
        work = client.worker.seen[0]
        assert view["status"] == "done"
        assert (view["result"]["seed"], view["result"]["width"], view["result"]["media_type"]) == (7, 64, "image/jpeg")
        assert view["metrics"]["inference_time"] == 0.006
        assert view["progress"] == {"calls_done": 10, "calls": 10}
        assert view["result"]["base64"] == []
        pictures = [(await client.get(address)).content for address in view["result"]["pictures"]]
        assert pictures == [picture_of(work, 0), picture_of(work, 1)]
        assert (await client.get(f"/v2/instantid/{first['id']}/pictures/2")).status_code == 404
        assert (await client.get(f"/v2/instantid/{first['id']}/pictures/x")).status_code == 404
        assert (await ended(client, second["id"]))["status"] == "done"
        assert await client.credits() == CREDITS - 3


async def test_base64_comes_with_the_poll(serve: Serve) -> None:
    async with serve() as client:
        view = await ended(client, (await submit(client, base64=True))["id"])
        assert [base64.b64decode(t) for t in view["result"]["base64"]] == [picture_of(client.worker.seen[0], 0)]


async def test_events_tell_places_calls_and_previews_and_then_end(serve: Serve) -> None:
    gate = asyncio.Event()
    async with serve(FakeWorker(gate=gate, delay_s=0.02)) as client:
        job = await submit(client, num_inference_steps=8, preview_calls=4)
        listening = asyncio.create_task(events_of(client, job["id"]))
        await asyncio.sleep(0.1)
        gate.set()
        events = await listening
        assert events[0] == (
            "progress",
            {"status": "queued", "queue_place": 1, "progress": {"calls_done": 0, "calls": 0}},
        )
        calls = [data["progress"]["calls_done"] for name, data in events if name == "progress"]
        assert calls == sorted(calls)
        assert len(set(calls)) > 3
        previews = [data["preview"] for _, data in events if "preview" in data]
        assert len(previews) in (1, 2)  # a slow listener misses some, and none comes twice
        assert previews[0].startswith("data:image/jpeg;base64,")
        assert events[-1][0] == "done"
        assert events[-1][1] == await view_of(client, job["id"])
        assert await events_of(client, job["id"]) == [events[-1]]


async def test_previews_are_off_by_default(serve: Serve) -> None:
    async with serve() as client:
        await ended(client, (await submit(client))["id"])
        assert client.worker.seen[0].preview_calls == 0


async def test_events_end_when_the_server_stops(serve: Serve) -> None:
    async with serve(FakeWorker(gate=asyncio.Event())) as client:
        job = await submit(client)
        listening = asyncio.create_task(events_of(client, job["id"]))
        await asyncio.sleep(0.05)
        client.service.dispatch.stopping.set()
        assert [name for name, _ in await listening] == ["progress"]


async def test_a_repeated_submission_is_one_job_and_one_charge(serve: Serve) -> None:
    async with serve() as client:
        headers = {"idempotency-key": "order-17/a"}
        answers = await asyncio.gather(*(client.make("v2", headers=headers, seed=-1) for _ in range(5)))
        assert {answer.status_code for answer in answers} == {202}
        assert len({answer.json()["id"] for answer in answers}) == 1
        await ended(client, answers[0].json()["id"])
        again = await client.make("v2", headers=headers, seed=-1)
        assert again.json()["status"] == "done"
        assert len(client.worker.seen) == 1
        assert await client.credits() == CREDITS - 1
        other = await client.make("v2", headers=headers, seed=9)
        assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency")
        for bad in (b"x" * 256, b"", b"a b", b"\xfc"):
            assert (await client.make("v2", headers={"idempotency-key": bad})).status_code == 422


async def test_cancelling_gives_the_price_back(serve: Serve) -> None:
    async with serve(FakeWorker(gate=asyncio.Event())) as client:
        job = (await submit(client, samples=4))["id"]
        while not client.worker.seen:
            await asyncio.sleep(0.01)
        answer = await client.delete(f"/v2/instantid/{job}")
        assert answer.json()["status"] == "cancelled"
        assert answer.json()["error"]["code"] == "cancelled"
        assert answer.headers["x-remaining-credits"] == str(CREDITS)
        assert client.worker.cancelled == [job]
        assert (await client.delete(f"/v2/instantid/{job}")).json()["status"] == "cancelled"


async def test_a_job_that_is_done_cannot_be_cancelled(serve: Serve) -> None:
    async with serve() as client:
        job = (await submit(client))["id"]
        await ended(client, job)
        assert (await client.delete(f"/v2/instantid/{job}")).json()["status"] == "done"
        assert await client.credits() == CREDITS - 1


async def test_a_failed_job_says_why_and_costs_nothing(serve: Serve) -> None:
    async with serve(FakeWorker(fail=Failed("", "no_face", "no face was found", "a photo", "show a face"))) as client:
        view = await ended(client, (await submit(client))["id"])
        assert (view["status"], view["error"]["code"], view["result"]) == ("failed", "no_face", None)
        assert await client.credits() == CREDITS


async def test_a_job_survives_the_death_of_workers(serve: Serve) -> None:
    async with serve(FakeWorker(die=2)) as client:
        view = await ended(client, (await submit(client))["id"])
        assert view["status"] == "done"
        assert len(client.worker.seen) == 3
        assert await client.credits() == CREDITS - 1


async def test_a_job_that_ends_every_worker_is_given_up(serve: Serve) -> None:
    async with serve(FakeWorker(die=9), max_attempts=2) as client:
        view = await ended(client, (await submit(client))["id"])
        assert (view["status"], view["error"]["code"]) == ("failed", "worker_lost")
        assert len(client.worker.seen) == 2
        assert await client.credits() == CREDITS


async def test_a_job_survives_a_restart_of_everything(serve: Serve) -> None:
    async with serve(FakeWorker(gate=asyncio.Event())) as client:
        job = (await submit(client, samples=2))["id"]
        while not client.worker.seen:
            await asyncio.sleep(0.01)
        (first,) = client.worker.seen
    async with serve(price=50) as client:
        view = await ended(client, job)
        assert view["status"] == "done"
        assert client.worker.seen == [first]
        assert await client.credits() == CREDITS - 2
        assert (await client.get(view["result"]["pictures"][1])).content == picture_of(first, 1)


async def test_results_survive_a_restart_and_are_gone_when_their_time_is_up(serve: Serve) -> None:
    async with serve(keep_results_s=0.3) as client:
        job = (await submit(client))["id"]
        await ended(client, job)
    async with serve() as client:
        assert (await view_of(client, job)).get("status") in ("done", None)
        await asyncio.sleep(0.35)
        assert (await client.get(f"/v2/instantid/{job}")).status_code == 404
    async with serve() as client:
        assert (
            await client.service.database.arun(lambda c: c.exec_driver_sql("SELECT count(*) FROM files").scalar()) == 0
        )


async def test_photos_and_prompts_are_kept_no_longer_than_needed(serve: Serve) -> None:
    def contents(connection: Any) -> tuple[list[bytes], str]:
        photos = [data for (data,) in connection.exec_driver_sql("SELECT data FROM files")]
        return photos, repr(connection.exec_driver_sql("SELECT * FROM jobs").all())

    async with serve(FakeWorker(gate=(gate := asyncio.Event()))) as client:
        job = (await submit(client, prompt="a secret"))["id"]
        photos, rows = await client.service.database.arun(contents)
        assert photos == [PHOTO]
        assert "secret" in rows
        gate.set()
        await ended(client, job)
        files, rows = await client.service.database.arun(contents)
    assert files == [picture_of(client.worker.seen[0], 0)]
    assert "secret" not in rows


async def test_a_job_is_seen_by_its_own_key_only(serve: Serve) -> None:
    async with serve() as client:
        job = (await submit(client))["id"]
        _, other = await client.service.database.arun(create_key, "other", 5)
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("GET", "/pictures/0")):
            answer = await client.request(method, f"/v2/instantid/{job}{path}", headers={"x-api-key": other})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
            assert answer.headers["x-remaining-credits"] == "5"
            assert (
                await client.request(method, f"/v2/instantid/{job}{path}", headers={"x-api-key": ""})
            ).status_code == 401


async def test_so_many_jobs_may_be_open(serve: Serve) -> None:
    async with serve(FakeWorker(gate=asyncio.Event()), max_jobs=2) as client:
        await submit(client)
        await submit(client)
        answer = await client.make("v2")
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
        assert await client.credits() == CREDITS - 2


async def test_too_few_credits_keep_no_job(serve: Serve) -> None:
    async with serve(price=60) as client:
        assert (await client.make("v2", samples=2)).status_code == 406
        assert (
            await client.service.database.arun(lambda c: c.exec_driver_sql("SELECT count(*) FROM jobs").scalar()) == 0
        )


async def test_a_job_waits_for_a_worker_that_is_being_started(serve: Serve) -> None:
    async with serve() as client:
        client.worker.die = 1
        job = (await submit(client))["id"]
        client.worker.state = WorkerState.STARTING
        await asyncio.sleep(0.05)
        assert (await view_of(client, job))["status"] == JobState.QUEUED
        client.worker.state = WorkerState.READY
        assert (await ended(client, job))["status"] == "done"


async def test_the_options_are_those_of_the_schema(serve: Serve) -> None:
    async with serve() as client:
        found = (await client.get("/v2/options", headers={"x-api-key": ""})).json()
    assert found["fields"]["num_inference_steps"] == {"minimum": 4, "maximum": 100, "default": 10}
    assert found["styles"][0] == found["no_style"] == "(No style)"
    assert found["keys"] is True
    assert found["sizes"]["default"] == [64, 64]
