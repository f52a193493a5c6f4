"""``POST /v1/instantid``: the answer is the picture."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import time

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from instantrt_serve.accounts.keys import Key
from instantrt_serve.accounts.ledger import ChargeState
from instantrt_serve.admission import OpenWork
from instantrt_serve.beside import beside
from instantrt_serve.body import Received
from instantrt_serve.envelope import note_of
from instantrt_serve.errors import ApiError
from instantrt_serve.messages import Done, Submit
from instantrt_serve.openapi import V1
from instantrt_serve.schema import PictureRequest
from instantrt_serve.service import Service, service_of, unless_gone

router = APIRouter()
MEDIA_TYPES = {"jpeg": "image/jpeg", "png": "image/png"}
PROGRESS_S = 0.25  # nobody sees it: it only tells how long others have to wait, and costs a moment of a core
MAX_WARNINGS = 2000  # characters of a header


@router.post("/v1/instantid", **V1)
async def instantid(request: Request) -> Response:
    """Make pictures of a person and answer with them.

    The body is JSON, or a form with the photos as files. With one sample the answer is the image, or its base64 text
    as ``text/plain`` if ``base64`` is true. With more it is ``multipart/mixed`` with an image in each part, or a JSON
    list of base64 texts.
    """
    service = service_of(request)
    key = await service.authenticate(request)
    service.dispatch.check_open()
    service.dispatch.check_room(OpenWork(key.id, 0.0))  # before the body is there it costs nothing to say no
    received = await service.bodies.read(request, PictureRequest)
    work = _work(note_of(request.scope).request_id, service, key, received)
    with service.dispatch.admitted(work):
        done = await _charged(request, service, key, work)
    response = await beside(sum(map(len, done.pictures)), answer, received.form, done, service)
    response.headers["server-timing"] = server_timing(done, note_of(request.scope).began_s, time.monotonic())
    return response


def _work(job: str, service: Service, key: Key, received: Received[PictureRequest]) -> Submit:
    return Submit(
        job=job,
        account=key.id,
        fields=received.form.runtime_fields(),
        face=received.face,
        pose=received.pose,
        deadline_s=service.config.timeout_s,
        format=received.form.format,
        progress_s=PROGRESS_S,
        tags=service.tags(job),
    )


async def _charged(request: Request, service: Service, key: Key, work: Submit) -> Done:
    """The pictures, paid for; without them nothing is paid."""
    note = note_of(request.scope)
    note.job = job = work.job
    try:
        note.credits = await service.books.reserve(job, key, service.price(work.fields))
        done = await unless_gone(request, _in_time(service, work))
    except BaseException:
        left = await service.books.settle(job, ChargeState.REFUNDED)
        note.credits = note.credits if left is None else left
        raise
    left = await service.books.settle(job, ChargeState.COMMITTED)
    note.credits = note.credits if left is None else left
    return done


async def _in_time(service: Service, work: Submit) -> Done:
    try:
        async with asyncio.timeout(work.deadline_s):
            return await service.dispatch.run(work)
    except TimeoutError:
        found, hint = f"more than {work.deadline_s:g} s", "try again later, or with fewer steps"
        raise ApiError("deadline", "the picture was not ready in time", found=found, hint=hint) from None


def answer(form: PictureRequest, done: Done, service: Service) -> Response:
    """The pictures in the form that was asked for."""
    media_type, headers = MEDIA_TYPES[form.format], headers_of(done, service)
    if form.base64:
        texts = base64_texts(done.pictures)
        one = form.samples == 1
        return PlainTextResponse(texts[0], headers=headers) if one else JSONResponse(texts, headers=headers)
    if form.samples == 1:
        return Response(done.pictures[0], headers=headers, media_type=media_type)
    boundary = secrets.token_hex(16)
    body = b"".join(
        f'--{boundary}\r\nContent-Type: {media_type}\r\nContent-Disposition: inline; filename="{number}.{form.format}"'
        f"\r\nContent-Length: {len(picture)}\r\n\r\n".encode()
        + picture
        + b"\r\n"
        for number, picture in enumerate(done.pictures)
    )
    whole = body + f"--{boundary}--\r\n".encode()
    return Response(whole, headers=headers, media_type=f"multipart/mixed; boundary={boundary}")


def base64_texts(pictures: list[bytes]) -> list[str]:
    """The files as JSON and text can hold them."""
    return [base64.b64encode(picture).decode() for picture in pictures]


def headers_of(done: Done, service: Service) -> dict[str, str]:
    """What is said of pictures beside them."""
    ready = service.dispatch.worker.ready
    headers = {
        "x-seed": str(done.seed),
        "x-model": "unknown" if ready is None else ascii(ready.model)[1:-1],
    }
    warnings = json.dumps(done.warnings)
    if done.warnings and len(warnings) <= MAX_WARNINGS:
        headers["x-warnings"] = warnings
    return headers


def server_timing(done: Done, began_s: float, now_s: float) -> str:
    """The header of that name: milliseconds by stage, from the last picture's decoding until now, and in all.

    Args:
        done: the pictures.
        began_s: when the request's head had been read, by :func:`time.monotonic`.
        now_s: by the same clock.
    """
    stages_ms = {"queue": done.queue_ms, **done.stages_ms}
    since_ms = {"answer": (now_s - done.decoded_s) * 1e3, "total": (now_s - began_s) * 1e3}
    return ", ".join(f"{name};dur={ms:.1f}" for name, ms in {**stages_ms, **since_ms}.items())
