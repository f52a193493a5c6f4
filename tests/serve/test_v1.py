"""``POST /v1/instantid`` does what the page of the hosted API says, and what good servers do where it says nothing."""

from __future__ import annotations

import asyncio
import base64
import re
from email import message_from_bytes
from email.policy import HTTP
from typing import Any

import pytest
from msgspec.structs import replace

from instantrt.request import RANGES, GenerateRequest
from instantrt_serve.errors import PROBLEMS
from instantrt_serve.messages import Done, Failed, Ready
from instantrt_serve.schema import PictureRequest
from instantrt_serve.v1 import server_timing
from instantrt_serve.worker_client import WorkerState
from serve.conftest import CREDITS, PHOTO, PHOTO_TEXT, Serve
from serve.fake_worker import READY, FakeWorker, picture_of

pytestmark = pytest.mark.anyio

PAGE = {
    "prompt": ...,
    "face_image": ...,
    "pose_image": None,
    "negative_prompt": None,
    "style": None,
    "samples": 1,
    "num_inference_steps": 10,
    "guidance_scale": 5,
    "seed": -1,
    "identity_strength": 0.8,
    "adapter_strength": 0.8,
    "enhance_face_region": True,
    "base64": False,
}
RANGES_OF_THE_PAGE = {
    "samples": (1, 4),
    "num_inference_steps": (4, 100),
    "guidance_scale": (1, 25),
    "seed": (-1, 999_999_999_999_999),
    "identity_strength": (0, 1),
    "adapter_strength": (0, 1),
}


def test_the_fields_are_those_of_the_page_with_its_defaults_and_ranges() -> None:
    schema = PictureRequest.model_json_schema()
    assert list(schema["properties"])[: len(PAGE)] == list(PAGE)
    assert schema["required"] == [name for name, default in PAGE.items() if default is ...]
    for name, default in PAGE.items():
        assert default is ... or schema["properties"][name]["default"] == default
    for name, (low, high) in RANGES_OF_THE_PAGE.items():
        assert (schema["properties"][name]["minimum"], schema["properties"][name]["maximum"]) == (low, high)


def test_every_option_of_the_runtime_can_be_asked_for() -> None:
    fields = PictureRequest(prompt="a", face_image="b").runtime_fields()
    assert set(fields) | {"face", "pose"} == set(GenerateRequest.__dataclass_fields__)
    assert set(RANGES) <= set(fields)


async def test_the_answer_is_the_picture(serve: Serve) -> None:
    async with serve() as client:
        answer = await client.make()
        (work,) = client.worker.seen
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.content == picture_of(work, 0)
    assert work.face == PHOTO
    assert work.fields["steps"] == 10
    assert answer.headers["x-remaining-credits"] == str(CREDITS - 1)
    assert answer.headers["x-seed"] == "7"
    assert answer.headers["x-model"] == "fake"
    assert answer.headers["x-request-id"] == work.job == work.tags["request_id"]
    stages, _, since = answer.headers["server-timing"].partition(", answer;dur=")
    assert stages == "queue;dur=2.0, photo;dur=1.0, denoise;dur=5.0"
    assert re.fullmatch(r"-?\d+\.\d, total;dur=\d+\.\d", since)
    assert answer.headers["x-warnings"] == '["several faces"]'


async def test_a_seed_is_drawn_and_told(serve: Serve) -> None:
    async with serve() as client:
        seeds = {(await client.make(seed=-1)).headers["x-seed"] for _ in range(3)}
    assert len(seeds) == 3
    assert all(0 <= int(seed) <= RANGES["seed"].high for seed in seeds)


async def test_base64_is_text(serve: Serve) -> None:
    async with serve() as client:
        answer = await client.make(base64=True)
        assert answer.headers["content-type"].startswith("text/plain")
        assert base64.b64decode(answer.text, validate=True) == picture_of(client.worker.seen[0], 0)


async def test_several_samples_are_a_list_of_base64_or_parts(serve: Serve) -> None:
    async with serve() as client:
        texts = (await client.make(base64=True, samples=3)).json()
        parts = await client.make(samples=3, format="png")
        first, second = client.worker.seen
    assert [base64.b64decode(text) for text in texts] == [picture_of(first, number) for number in range(3)]
    whole = message_from_bytes(
        f"Content-Type: {parts.headers['content-type']}\r\n\r\n".encode() + parts.content, policy=HTTP
    )
    found = [part.get_payload(decode=True) for part in whole.iter_parts()]  # type: ignore[attr-defined]
    assert found == [picture_of(second, number) for number in range(3)]
    assert [part.get_content_type() for part in whole.iter_parts()] == ["image/png"] * 3  # type: ignore[attr-defined]
    assert parts.headers["x-remaining-credits"] == str(CREDITS - 6)


@pytest.mark.parametrize("text", [f"data:image/jpeg;base64,{PHOTO_TEXT}", PHOTO_TEXT.rstrip("="), f" {PHOTO_TEXT}\n"])
async def test_a_photo_comes_as_base64_or_data_url(text: str, serve: Serve) -> None:
    async with serve() as client:
        assert (await client.make(face_image=text, pose_image=text)).status_code == 200
        assert (client.worker.seen[0].face, client.worker.seen[0].pose) == (PHOTO, PHOTO)


async def test_a_photo_comes_as_a_file(serve: Serve) -> None:
    async with serve() as client:
        fields = {"prompt": "a", "samples": "2", "guidance_scale": "2.5", "base64": "true", "seed": "3"}
        answer = await client.post(
            "/v1/instantid", data=fields, files={"face_image": ("../a.jpg", PHOTO), "pose_image": PHOTO}
        )
        assert answer.status_code == 200
        assert len(answer.json()) == 2
        (work,) = client.worker.seen
    assert (work.face, work.pose, work.fields["guidance_scale"]) == (PHOTO, PHOTO, 2.5)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"samples": 5}, "samples"),
        ({"num_inference_steps": 3}, "num_inference_steps"),
        ({"num_inference_steps": 4.5}, "num_inference_steps"),
        ({"num_inference_steps": "10"}, "num_inference_steps"),
        ({"guidance_scale": 0.5}, "guidance_scale"),
        ({"seed": -2}, "seed"),
        ({"base64": 1}, "base64"),
        ({"prompt": " "}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"style": "Cubism"}, "style"),
        ({"sampler": "plms"}, "sampler"),
        ({"width": 100, "height": 64}, "width"),
        ({"width": 64}, None),
        ({"control_guidance_start": 0.5, "control_guidance_end": 0.5}, None),
        ({"steps": 10}, "steps"),
        ({"preview_calls": 1}, "preview_calls"),
    ],
)
async def test_a_field_that_does_not_fit_is_named(fields: dict[str, Any], field: str | None, serve: Serve) -> None:
    async with serve() as client:
        answer = await client.make(**fields)
        assert client.worker.seen == []
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (422, "request", field)
    assert error["message"]
    assert error["hint"]
    assert error["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-remaining-credits"] == str(CREDITS)


@pytest.mark.parametrize(
    ("body", "kind", "status", "code"),
    [
        (b"{", "application/json", 422, "request"),
        (b"[]", "application/json", 422, "request"),
        (b"\xff", "application/json", 422, "request"),
        (b"[" * 100_000, "application/json", 422, "request"),
        (b"{}", "text/plain", 415, "media_type"),
        (b"{}", "", 415, "media_type"),
        (b"", "multipart/form-data", 422, "request"),
        (b"--a\r\n", "multipart/form-data; boundary=a", 422, "request"),
        (b"a" * 2000, "application/json", 413, "too_large"),
        (b"a" * 2000, "multipart/form-data; boundary=a", 413, "too_large"),
    ],
)
async def test_a_body_that_cannot_be_read(body: bytes, kind: str, status: int, code: str, serve: Serve) -> None:
    async with serve(max_body_bytes=1000 if len(body) == 2000 else 1_000_000) as client:
        answer = await client.post("/v1/instantid", content=body, headers={"content-type": kind} if kind else {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_a_body_without_length_is_cut_off_at_the_limit(serve: Serve) -> None:
    async def pieces() -> Any:
        for _ in range(100):
            yield b" " * 100

    async with serve(max_body_bytes=1000) as client:
        answer = await client.post("/v1/instantid", content=pieces(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


async def test_a_body_that_does_not_come_is_not_waited_for(serve: Serve) -> None:
    async def nothing() -> Any:
        await asyncio.Event().wait()
        yield b""

    async with serve(body_timeout_s=0.05) as client:
        answer = await client.post("/v1/instantid", content=nothing(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "slow_body")
    assert answer.headers["retry-after"]


@pytest.mark.parametrize("photo", ["%%%", "data:image/png,abc", "data:;base64,*", "", "é", "data:image/png;base64,"])
async def test_a_photo_that_is_no_base64(photo: str, serve: Serve) -> None:
    async with serve() as client:
        answer = await client.make(face_image=photo)
    error = answer.json()["error"]
    assert answer.status_code == (415 if photo else 422)
    assert error["field"] == "face_image"


async def test_an_undecodable_photo_and_one_without_a_face_are_told_apart(serve: Serve) -> None:
    async with serve(FakeWorker(decodes=True)) as client:
        undecodable = await client.make(face_image=base64.b64encode(b"no image").decode())
        client.worker.fail = Failed("", "no_face", "no face was found", "a photo of 80 x 60 pixels", "show a face")
        faceless = await client.make()
    assert (undecodable.status_code, undecodable.json()["error"]["code"]) == (415, "photo")
    assert (faceless.status_code, faceless.json()["error"]["code"]) == (422, "no_face")
    assert faceless.json()["error"]["hint"] == "show a face"
    assert faceless.headers["x-remaining-credits"] == str(CREDITS)


async def test_without_a_valid_key_nothing_is_done(serve: Serve) -> None:
    async with serve() as client:
        for key in (b"", b"irt_0", client.key[:-1].encode() + (b"1" if client.key[-1] == "0" else b"0"), b"\xfc"):
            answer = await client.make(headers={"x-api-key": key})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")
            assert answer.headers["x-remaining-credits"] == "0"
        assert client.worker.seen == []


async def test_unknown_addresses_and_methods(serve: Serve) -> None:
    async with serve() as client:
        missing, method = await client.get("/v3/instantid"), await client.get("/v1/instantid")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (method.status_code, method.json()["error"]["code"]) == (405, "method")
    assert method.headers["allow"] == "POST"


async def test_too_few_credits(serve: Serve) -> None:
    async with serve(price=30) as client:
        assert (await client.make(samples=3)).headers["x-remaining-credits"] == str(CREDITS - 90)
        answer = await client.make()
    assert (answer.status_code, answer.json()["error"]["code"]) == (406, "credits")
    assert answer.json()["error"]["found"] == "10 left, 30 needed"
    assert answer.headers["x-remaining-credits"] == str(CREDITS - 90)


@pytest.mark.parametrize(("steps", "price"), [(4, 1), (10, 1), (11, 2), (100, 10)])
async def test_the_price_counts_pictures_and_started_tens_of_steps(steps: int, price: int, serve: Serve) -> None:
    async with serve() as client:
        answer = await client.make(num_inference_steps=steps, samples=2)
    assert answer.headers["x-remaining-credits"] == str(CREDITS - 2 * price)


@pytest.mark.parametrize("code", [*PROBLEMS, "engine", "device", "not_finite", "bundle", "what is this"])
async def test_a_failure_is_refunded_and_says_nothing_of_the_server(code: str, serve: Serve) -> None:
    failed = Failed("", code, "the mistake", "/secret/path" if code not in PROBLEMS else "found", "a hint")
    async with serve(FakeWorker(fail=failed)) as client:
        answer = await client.make()
        assert await client.credits() == CREDITS
    error = answer.json()["error"]
    assert answer.status_code == (PROBLEMS[code].status if code in PROBLEMS else 500)
    assert error["code"] == (code if code in PROBLEMS else "internal")
    assert "secret" not in answer.text
    assert ("retry-after" in answer.headers) == (code in PROBLEMS and PROBLEMS[code].retryable)
    assert answer.headers["x-remaining-credits"] == str(CREDITS)


async def test_a_bug_is_an_answer_without_a_trace(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve() as client:
        monkeypatch.setattr(client.service.dispatch, "check_room", lambda _: 1 / 0)
        answer = await client.make()
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "ZeroDivision" not in answer.text
    assert answer.headers["x-request-id"]


async def test_a_lost_worker_is_a_retryable_error_and_a_refund(serve: Serve) -> None:
    async with serve(FakeWorker(die=1)) as client:
        lost, again = await client.make(), await client.make()
    assert (lost.status_code, lost.json()["error"]["code"]) == (503, "worker_lost")
    assert lost.headers["retry-after"]
    assert lost.headers["x-remaining-credits"] == str(CREDITS)
    assert again.status_code == 200


async def test_a_late_picture_is_a_retryable_error_and_a_refund(serve: Serve) -> None:
    async with serve(FakeWorker(gate=asyncio.Event()), timeout_s=0.05) as client:
        answer = await client.make()
        assert client.worker.cancelled == [answer.headers["x-request-id"]]
        assert client.worker.seen[0].deadline_s == 0.05
        assert await client.credits() == CREDITS
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "deadline")


async def test_a_client_that_goes_away_cancels_its_job_and_pays_nothing(serve: Serve) -> None:
    worker = FakeWorker(gate=asyncio.Event())
    async with serve(worker) as client:
        body = b'{"prompt": "a", "face_image": "%s"}' % PHOTO_TEXT.encode()
        headers = [(b"content-type", b"application/json"), (b"x-api-key", client.key.encode())]
        scope = {"type": "http", "method": "POST", "path": "/v1/instantid", "query_string": b"", "headers": headers}
        messages = [{"type": "http.request", "body": body}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            while not worker.seen:
                await asyncio.sleep(0)
            return {"type": "http.disconnect"}

        async def send(message: object) -> None:
            pass

        await client.app(scope, receive, send)
        assert worker.cancelled == [worker.seen[0].job]
        assert await client.credits() == CREDITS


async def test_while_starting_and_stopping_nothing_is_taken(serve: Serve) -> None:
    async with serve(FakeWorker(state=WorkerState.STARTING)) as client:
        starting = await client.make()
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200
        client.worker.state = WorkerState.READY
        assert (await client.get("/readyz")).json()["status"] == "ready"
        client.service.dispatch.stopping.set()
        stopping = await client.make()
    assert [a.json()["error"]["code"] for a in (starting, stopping)] == ["starting", "stopping"]
    assert starting.status_code == stopping.status_code == 503
    assert starting.headers["retry-after"]


def measured(call_ms: float) -> Ready:
    """A worker whose network call takes so long."""
    return replace(READY, call_ms={"64x64/2": call_ms}, slots=1, fixed_ms=0.0)


async def test_a_full_queue_says_when_to_come_again(serve: Serve) -> None:
    gate = asyncio.Event()
    async with serve(FakeWorker(gate=gate, ready=measured(500.0)), max_waiting=4) as client:
        accepted = [asyncio.create_task(client.make(seed=number)) for number in range(2)]
        while len(client.worker.seen) < 2:
            await asyncio.sleep(0)
        refused = await client.make()
        gate.set()
        assert [(await answer).status_code for answer in accepted] == [200, 200]
        assert (await client.make()).status_code == 200
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert refused.headers["retry-after"] == "5"  # one of two jobs of 10 calls
    assert refused.headers["x-remaining-credits"] == str(CREDITS - 2)


async def test_work_that_would_be_late_is_not_taken(serve: Serve) -> None:
    async with serve(FakeWorker(ready=measured(20_000.0)), timeout_s=100) as client:
        answer = await client.make()
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "130")  # of 200 s, 70 s are for it
    assert "would not be ready in time" in answer.json()["error"]["message"]


async def test_memory_for_bodies_is_bounded(serve: Serve) -> None:
    async with serve(max_uploads=1, body_timeout_s=0.05) as client:
        async with client.service.bodies._place():
            refused = await client.make()
        assert (await client.make()).status_code == 200
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "busy")


async def test_many_at_once_get_each_their_own(serve: Serve) -> None:
    async with serve() as client:
        answers = await asyncio.gather(*(client.make(seed=seed, samples=1 + seed % 2) for seed in range(40)))
        alone = await asyncio.gather(*(client.make(seed=seed, base64=True) for seed in range(0, 40, 2)))
        assert await client.credits() == CREDITS - 60 - 20
    assert [answer.headers["x-seed"] for answer in answers] == [str(seed) for seed in range(40)]
    assert [base64.b64decode(a.text) for a in alone] == [a.content for a in answers[::2]]
    assert len({answer.headers["x-request-id"] for answer in answers}) == 40


def test_server_timing_tells_what_came_after_decoding_and_the_whole() -> None:
    done = Done("j", [], 1, 64, 64, [], queue_ms=2.0, stages_ms={"decode": 5.0}, decoded_s=10.0)
    assert (
        server_timing(done, began_s=9.5, now_s=10.0035)
        == "queue;dur=2.0, decode;dur=5.0, answer;dur=3.5, total;dur=503.5"
    )
