"""The page, and what operators ask: is it alive, is it ready, what has it done."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from instantrt_serve.errors import ApiError
from instantrt_serve.openapi import HEALTH, METRICS, READY
from instantrt_serve.service import service_of

health = APIRouter()
metrics = APIRouter()
page = APIRouter(include_in_schema=False)

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
PAGE_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_FILES = {name: files("instantrt_serve").joinpath("page", name).read_bytes() for name in PAGE_TYPES}


@health.get("/healthz", **HEALTH)
async def healthz() -> Response:
    """Whether the API process lives. Says nothing of the worker: see ``/readyz``."""
    return JSONResponse({"status": "alive"})


@health.get("/readyz", **READY)
async def readyz(request: Request) -> Response:
    """Whether requests are taken now; 503 while the networks are being loaded and before the server stops."""
    service = service_of(request)
    service.dispatch.check_open()
    ready = service.dispatch.worker.ready
    about: dict[str, Any] = (
        {} if ready is None else {"model": ready.model, "target": ready.target, "slots": ready.slots}
    )
    return JSONResponse({"status": "ready", **about})


@metrics.get("/metrics", **METRICS)
async def metrics_(request: Request) -> Response:
    """Counts in Prometheus's text format."""
    return Response(service_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@page.get("/")
async def index() -> Response:
    """The page."""
    return _file("index.html")


@page.get("/page/{name}")
async def page_file(name: str) -> Response:
    """What the page consists of."""
    return _file(name)


def _file(name: str) -> Response:
    if name not in _FILES:
        raise ApiError("not_found", "there is nothing at this address", hint="the page is at /")
    headers = {"content-security-policy": PAGE_POLICY, "cache-control": "no-cache"}
    return Response(_FILES[name], headers=headers, media_type=PAGE_TYPES[name])
