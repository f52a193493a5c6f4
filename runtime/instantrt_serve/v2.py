"""``/v2/instantid``: submit, then poll or listen, and cancel."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator
from math import inf
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from instantrt.plain import shown
from instantrt_serve import schema
from instantrt_serve.accounts.jobs import Job, JobState, NewJob
from instantrt_serve.beside import beside
from instantrt_serve.body import Received
from instantrt_serve.dispatch import OpenJob
from instantrt_serve.envelope import note_of
from instantrt_serve.errors import ApiError
from instantrt_serve.jobs import new_job_id
from instantrt_serve.openapi import EVENTS, IDEMPOTENCY_PATTERN, JOB, OPTIONS, PICTURE, SUBMIT
from instantrt_serve.schema import JobRequest
from instantrt_serve.service import Service, service_of
from instantrt_serve.v1 import MEDIA_TYPES, base64_texts

router = APIRouter()
ADDRESS = "/v2/instantid"
IDEMPOTENCY_KEY = re.compile(IDEMPOTENCY_PATTERN)
ELSEWHERE_S = 1.0
KEEP_ALIVE_S = 15.0  # proxies end connections on which nothing is said


@router.post(ADDRESS, **SUBMIT)
async def submit(request: Request) -> Response:
    """Submit a job. A repeated submission with the same ``Idempotency-Key`` and body is the same job."""
    service = service_of(request)
    key = await service.authenticate(request)
    idempotency_key = _idempotency_key(request)
    service.dispatch.check_open()
    received = await service.bodies.read(request, JobRequest)
    fields = received.form.runtime_fields()
    size = len(received.face) + len(received.pose or b"")
    fingerprint = await beside(size, _fingerprint, received)
    new = _new_job(service, key.id, idempotency_key, fingerprint, received, fields)
    note = note_of(request.scope)
    job, note.credits = await service.jobs.submit(new)
    note.job = job.id
    headers = {"location": f"{ADDRESS}/{job.id}"}
    return JSONResponse(await _view(service, job), 202, headers=headers)


@router.get(ADDRESS + "/{job}", **JOB)
async def poll(request: Request, job: str) -> Response:
    """How a job stands, and what came of it."""
    service, found = await _found(request, job)
    return JSONResponse(await _view(service, found))


@router.get(ADDRESS + "/{job}/pictures/{number}", **PICTURE)
async def picture(request: Request, job: str, number: int) -> Response:
    """A picture of a job that is done, counted from 0."""
    service, found = await _found(request, job)
    data = (await service.jobs.pictures(found)).get(str(number))
    if data is None or found.outcome is None:
        raise ApiError("not_found", "there is no such picture", hint="see result.pictures of the job")
    return Response(data, media_type=MEDIA_TYPES[found.outcome["format"]])


@router.delete(ADDRESS + "/{job}", **JOB)
async def cancel(request: Request, job: str) -> Response:
    """Cancel a job; its price is given back. One that has ended stays as it is."""
    service, found = await _found(request, job)
    left = await service.jobs.cancel(found)
    if left is not None:
        note_of(request.scope).credits = left
    found = await service.jobs.find(job, found.key)
    return JSONResponse(await _view(service, found))


@router.get(ADDRESS + "/{job}/events", **EVENTS)
async def events(request: Request, job: str) -> Response:
    """Progress as server-sent events: ``progress`` when it changes, then ``done``, ``failed`` or ``cancelled``."""
    service, found = await _found(request, job)
    return StreamingResponse(_events(service, found), media_type="text/event-stream")


@router.get("/v2/options", **OPTIONS)
async def options(request: Request) -> Response:
    """What requests may hold, for clients that show a form. Needs no key."""
    service = service_of(request)
    ready = service.dispatch.worker.ready
    about: dict[str, Any] = (
        {"sizes": {}, "model": None} if ready is None else {"sizes": ready.sizes, "model": ready.model}
    )
    return JSONResponse({**schema.options(), **about, "keys": not service.config.no_keys, "price": service.unit_price})


async def _found(request: Request, job: str) -> tuple[Service, Job]:
    service = service_of(request)
    key = await service.authenticate(request)
    found = await service.jobs.find(job, key.id)
    note_of(request.scope).job = found.id
    return service, found


async def _view(service: Service, job: Job) -> dict[str, Any]:
    """A job as clients see it."""
    open_ = service.dispatch.find(job.id) or OpenJob()
    running = job.state is JobState.QUEUED and not open_.waits
    view: dict[str, Any] = {
        "id": job.id,
        "status": "running" if running else str(job.state),
        "queue_place": service.dispatch.place(job.id) if job.state is JobState.QUEUED else 0,
        "progress": {"calls_done": open_.calls_done, "calls": open_.calls},
        "created_ms": job.created_ms,
        "expires_ms": job.expires_ms,
        "result": None,
        "metrics": None,
        "error": None,
    }
    if job.state is JobState.DONE and job.outcome is not None:
        view |= await _result(service, job, job.outcome)
        view["progress"] = {"calls_done": job.outcome["calls"], "calls": job.outcome["calls"]}
    elif job.outcome is not None:
        view["error"] = job.outcome
    return view


async def _result(service: Service, job: Job, outcome: dict[str, Any]) -> dict[str, Any]:
    pictures = await service.jobs.pictures(job) if outcome["base64"] else {}
    kept = {name: outcome[name] for name in ("seed", "width", "height", "warnings")}
    addresses = [f"{ADDRESS}/{job.id}/pictures/{number}" for number in range(outcome["pictures"])]
    texts = await beside(sum(map(len, pictures.values())), base64_texts, list(pictures.values()))
    seconds = sum(outcome["stages_ms"].values()) / 1000
    return {
        "result": {**kept, "media_type": MEDIA_TYPES[outcome["format"]], "pictures": addresses, "base64": texts},
        "metrics": {
            "inference_time": round(seconds, 4),
            "queue_time": round(outcome["queue_ms"] / 1000, 4),
            "stages_ms": outcome["stages_ms"],
        },
    }


async def _events(service: Service, job: Job) -> AsyncIterator[bytes]:
    """A slow listener misses steps between, and nothing is kept for it."""
    sent = shown = None
    looked_s = -inf
    while True:
        open_ = service.dispatch.find(job.id)
        changed = None if open_ is None else open_.changed
        if open_ is None or time.monotonic() - looked_s >= ELSEWHERE_S:  # another server may have cancelled it
            job, looked_s = await service.jobs.find(job.id, job.key), time.monotonic()
        view = await _view(service, job)
        if job.state is not JobState.QUEUED:
            yield _event(str(job.state), view)
            return
        news = {name: view[name] for name in ("status", "queue_place", "progress")}
        if open_ is not None and open_.preview is not None and open_.preview is not shown:
            shown = open_.preview
            news["preview"] = f"data:image/jpeg;base64,{base64.b64encode(open_.preview).decode()}"
        yield _event("progress", news) if news != sent else b": waiting\n\n"
        sent = news
        if service.dispatch.stopping.is_set():
            return  # the client listens again, to the next server
        await _change(service, changed)


async def _change(service: Service, changed: asyncio.Event | None) -> None:
    """Until something may have changed, the server stops, or it is time to say something."""
    if changed is None:  # another server's job
        await asyncio.sleep(ELSEWHERE_S)
        return
    waits = [asyncio.ensure_future(event.wait()) for event in (changed, service.dispatch.stopping)]
    try:
        await asyncio.wait(waits, timeout=KEEP_ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


def _new_job(
    service: Service,
    key: str,
    idempotency_key: str | None,
    fingerprint: str,
    received: Received[JobRequest],
    fields: dict[str, Any],
) -> NewJob:
    job, form = new_job_id(), received.form
    work = {"fields": fields, "format": form.format, "preview_calls": form.preview_calls, "base64": form.base64}
    files = {"face": received.face} | ({} if received.pose is None else {"pose": received.pose})
    return NewJob(
        id=job,
        key=key,
        instance=service.config.instance,
        idempotency_key=idempotency_key,
        fingerprint=fingerprint,
        work=work | {"tags": service.tags(job)},
        files=files,
        credits=service.price(fields),
        most=service.config.max_jobs,
    )


def _idempotency_key(request: Request) -> str | None:
    """A hash of it, which is all that is kept.

    Raises:
        ApiError: it is empty, too long, or has other characters than printable ASCII without spaces.
    """
    text = request.headers.get("idempotency-key")
    if text is None:
        return None
    if not IDEMPOTENCY_KEY.fullmatch(text):
        hint = "give 1 to 255 letters, digits and signs, such as a UUID"
        raise ApiError("request", "the Idempotency-Key cannot be used", found=shown(text), hint=hint)
    return hashlib.sha256(text.encode()).hexdigest()


def _fingerprint(received: Received[JobRequest]) -> str:
    """SHA-256 of fields and photos as they were sent; a seed that is drawn is not in it."""
    digest = hashlib.sha256(received.form.model_dump_json().encode())
    for photo in (received.face, received.pose or b""):
        digest.update(hashlib.sha256(photo).digest())
    return digest.hexdigest()
