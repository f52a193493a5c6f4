"""The description of the API: what each route takes and answers, for `/openapi.json`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from instantrt_serve.errors import PROBLEMS
from instantrt_serve.schema import EXAMPLE, JobRequest, PictureRequest

SECURITY: list[dict[str, list[str]]] = [{"key": []}]
SCHEMES = {"key": {"type": "apiKey", "in": "header", "name": "x-api-key"}}
IDEMPOTENCY_PATTERN = "^[!-~]{1,255}$"
PHOTO_FILE = {"type": "string", "contentMediaType": "image/*"}
COMMON = {
    "x-request-id": {"description": "names the request in the server's log", "schema": {"type": "string"}},
    "x-remaining-credits": {
        "description": "of the key, without what is reserved; 0 without a valid key",
        "schema": {"type": "integer", "minimum": 0},
    },
    "server-timing": {
        "description": "milliseconds until the answer began, `total`; with pictures by stage, too",
        "schema": {"type": "string"},
    },
}
OF_PICTURES = {
    "x-seed": {"description": "the seed used", "schema": {"type": "integer"}},
    "x-model": {"description": "what the bundle calls itself", "schema": {"type": "string"}},
}
EXAMPLE_ERROR = {
    "code": "request",
    "message": "samples does not fit: input should be less than or equal to 4",
    "found": "9",
    "hint": "give a value from 1 to 4",
    "field": "samples",
    "request_id": "0f7f9f2c6f3b4c1f9a1f5a0d1c2b3a49",
}


class ErrorBody(BaseModel):
    """What went wrong."""

    code: str = Field(json_schema_extra={"enum": list(PROBLEMS)})
    message: str
    found: str | None
    hint: str | None
    field: str | None
    request_id: str


class ErrorAnswer(BaseModel):
    """The one shape of errors."""

    error: ErrorBody = Field(examples=[EXAMPLE_ERROR])


class JobProgress(BaseModel):
    """Network calls."""

    calls_done: int
    calls: int = Field(description="0 as long as the job waits")


class JobResult(BaseModel):
    """What came of a job."""

    seed: int
    width: int
    height: int
    warnings: list[str]
    media_type: str
    pictures: list[str] = Field(description="addresses of the pictures on this server")
    base64: list[str] = Field(description="the pictures, if base64 was asked for")


class JobMetrics(BaseModel):
    """Where the time went."""

    inference_time: float = Field(description="seconds, without waiting")
    queue_time: float = Field(description="seconds")
    stages_ms: dict[str, float]


class JobView(BaseModel):
    """A job."""

    id: str
    status: str = Field(json_schema_extra={"enum": ["queued", "running", "done", "failed", "cancelled"]})
    queue_place: int = Field(description="1 is next; 0 if it does not wait")
    progress: JobProgress
    created_ms: int
    expires_ms: int | None
    result: JobResult | None
    metrics: JobMetrics | None
    error: ErrorBody | None


def _statuses(*codes: str) -> dict[int | str, dict[str, Any]]:
    """Answers for these codes of errors; several may share a status."""
    answers: dict[int | str, dict[str, Any]] = {}
    for code in codes:
        problem = PROBLEMS[code]
        known = answers.setdefault(problem.status, {"model": ErrorAnswer, "headers": dict(COMMON), "description": ""})
        known["description"] += ("; " if known["description"] else "") + f"{code}: {problem.about}"
        if problem.retryable:
            known["headers"]["retry-after"] = {"description": "seconds", "schema": {"type": "integer"}}
    return answers


def _body(model: type[BaseModel]) -> dict[str, Any]:
    """JSON, or the same fields as a form with the photos as files."""
    whole = model.model_json_schema()
    properties = whole["properties"] | {"face_image": PHOTO_FILE, "pose_image": PHOTO_FILE}
    form = {**whole, "properties": properties, "title": f"{whole['title']}Form"}
    del form["examples"]
    content = {"application/json": {"schema": whole, "example": EXAMPLE}, "multipart/form-data": {"schema": form}}
    return {"required": True, "content": content}


_ASKING = (
    "unauthorized",
    "credits",
    "slow_body",
    "too_large",
    "photo",
    "media_type",
    "request",
    "no_face",
    "fetch",
    "headers",
)
_BUSY = ("queue_full", "busy", "internal", "starting", "stopping", "worker_lost", "deadline", "cancelled", "storage")
_ALWAYS = ("unauthorized", "not_found", "headers", "internal", "storage")
_TEXT = {"type": "string"}

V1: dict[str, Any] = {
    "openapi_extra": {"requestBody": _body(PictureRequest), "security": SECURITY},
    "responses": {
        200: {
            "description": "the picture or pictures",
            "headers": COMMON | OF_PICTURES,
            "content": {
                "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
                "image/png": {"schema": {"type": "string", "format": "binary"}},
                "text/plain": {"schema": {"type": "string", "description": "base64"}},
                "application/json": {"schema": {"type": "array", "items": _TEXT}},
                "multipart/mixed": {"schema": {"type": "string", "format": "binary"}},
            },
        },
        **_statuses(*_ASKING, *_BUSY),
    },
}
SUBMIT: dict[str, Any] = {
    "status_code": 202,
    "openapi_extra": {
        "requestBody": _body(JobRequest),
        "security": SECURITY,
        "parameters": [
            {
                "name": "idempotency-key",
                "in": "header",
                "required": False,
                "description": "a repeated submission with it is the same job",
                "schema": {"type": "string", "pattern": IDEMPOTENCY_PATTERN},
            }
        ],
    },
    "responses": {
        202: {"model": JobView, "description": "the job is kept and will be done", "headers": COMMON},
        **_statuses(*_ASKING, "idempotency", *_BUSY),
    },
}
JOB: dict[str, Any] = {
    "openapi_extra": {"security": SECURITY},
    "responses": {
        200: {"model": JobView, "description": "the job", "headers": COMMON},
        **_statuses(*_ALWAYS),
    },
}
PICTURE: dict[str, Any] = {
    "openapi_extra": {"security": SECURITY},
    "responses": {
        200: {
            "description": "the picture",
            "headers": COMMON,
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}} for kind in ("image/jpeg", "image/png")
            },
        },
        **_statuses(*_ALWAYS, "request"),
    },
}
EVENTS: dict[str, Any] = {
    "openapi_extra": {"security": SECURITY},
    "responses": {
        200: {
            "description": "server-sent events",
            "headers": COMMON,
            "content": {"text/event-stream": {"schema": _TEXT}},
        },
        **_statuses(*_ALWAYS),
    },
}
OPTIONS: dict[str, Any] = {
    "responses": {200: {"description": "presets, samplers, ranges, sizes, price", "headers": COMMON}}
}
HEALTH: dict[str, Any] = {
    "responses": {200: {"description": "the process lives", "headers": COMMON, "content": {"application/json": {}}}}
}
READY: dict[str, Any] = {
    "responses": {
        200: {"description": "requests are taken", "headers": COMMON, "content": {"application/json": {}}},
        **_statuses("starting", "stopping"),
    }
}
METRICS: dict[str, Any] = {
    "responses": {200: {"description": "counts", "headers": COMMON, "content": {"text/plain": {"schema": _TEXT}}}}
}
