"""What every answer has, whoever makes it: a request id, credits left, its time, safe headers, a log line, a count."""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from instantrt_serve.errors import ApiError, internal_error
from instantrt_serve.logs import log
from instantrt_serve.metrics import Metrics
from instantrt_serve.tracing import Traces

NOTE = "instantrt.note"
SECURITY_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}


@dataclass
class Note:
    """What is known of a request while it is answered.

    Args:
        request_id: ours; what clients send under such a name is not used.
        credits: left of the key; 0 without a valid key.
        key: its id.
        job: the job it made or asks for.
        began_s: when its head had been read, by :func:`time.monotonic`.
    """

    request_id: str
    credits: int = 0
    key: str | None = None
    job: str | None = None
    began_s: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since its head had been read."""
        return time.monotonic() - self.began_s


def note_of(scope: Scope) -> Note:
    """Of the request that is being answered."""
    note: Note = scope[NOTE]
    return note


def error_response(error: ApiError, note: Note) -> JSONResponse:
    """The one shape of errors."""
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    return JSONResponse(error.to_json(note.request_id), error.status, headers)


class Envelope:
    """The outermost layer of the app.

    Args:
        app: the others.
        metrics: counts answers.
        traces: get a span for each.
        cross_origin: whether other origins' pages may use the API at all.
        max_header_bytes: of the address and the headers.
    """

    def __init__(
        self, app: ASGIApp, metrics: Metrics, traces: Traces, cross_origin: bool, max_header_bytes: int
    ) -> None:
        self._app, self._metrics, self._traces, self._max_header_bytes = app, metrics, traces, max_header_bytes
        policy = "cross-origin" if cross_origin else "same-origin"
        self._headers = SECURITY_HEADERS | {"cross-origin-resource-policy": policy}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        note = scope[NOTE] = Note(uuid.uuid4().hex)
        answer = _Answer(send, note, self._headers)
        try:
            await self._checked(scope)(scope, receive, answer.send)
        except Exception as error:  # a bug of ours
            log("bug", logging.ERROR, error, request_id=note.request_id, route=_route(scope))
            if answer.status == 0:
                await error_response(internal_error(), note)(scope, receive, answer.send)
        finally:
            self._note(scope, note, answer.status, note.seconds)

    def _checked(self, scope: Scope) -> ASGIApp:
        """What answers: the app, or a refusal."""
        size = len(scope["path"]) + len(scope["query_string"]) + sum(len(n) + len(v) for n, v in scope["headers"])
        if size <= self._max_header_bytes:
            return self._app
        found, hint = f"{size:,} bytes", f"at most {self._max_header_bytes:,} bytes; photos go into the body"
        return error_response(ApiError("headers", "the headers are too large", found=found, hint=hint), note_of(scope))

    def _note(self, scope: Scope, note: Note, status: int, seconds: float) -> None:
        route, method = _route(scope), _method(scope)
        self._metrics.note_answer(route, method, status, seconds)
        about: dict[str, Any] = {"request_id": note.request_id, "key": note.key, "job": note.job}
        about |= {"method": method, "route": route, "status": status}
        log("answer", ms=round(seconds * 1000, 1), **about)
        self._traces.note("answer", seconds, about, Headers(scope=scope).get("traceparent"))


class _Answer:
    """Puts the headers on what is sent."""

    def __init__(self, send: Send, note: Note, headers: dict[str, str]) -> None:
        self._send, self._note, self._headers = send, note, headers
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in self._headers.items():
                headers.setdefault(name, value)
            headers["x-request-id"] = self._note.request_id
            headers["x-remaining-credits"] = str(self._note.credits)
            headers.setdefault("server-timing", f"total;dur={self._note.seconds * 1e3:.1f}")
        await self._send(message)


def _route(scope: Scope) -> str:
    """The pattern of the route, which holds nothing that a client chose."""
    route: Any = scope.get("route")
    return str(getattr(route, "path", "unknown"))


def _method(scope: Scope) -> str:
    method = str(scope["method"])
    return method if method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
