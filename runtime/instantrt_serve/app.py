"""The HTTP app: settings and a worker in, an ASGI application out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response

from instantrt.errors import InstantRTError
from instantrt.version import __version__
from instantrt_serve import site, v1, v2
from instantrt_serve.config import ServeConfig
from instantrt_serve.envelope import Envelope, error_response, note_of
from instantrt_serve.errors import ApiError, api_error, error_of_status
from instantrt_serve.logs import log
from instantrt_serve.openapi import SCHEMES
from instantrt_serve.service import Service
from instantrt_serve.tracing import Traces, traces_to
from instantrt_serve.worker_client import WorkerClient

READABLE_HEADERS = "x-request-id x-remaining-credits x-seed x-model x-warnings server-timing location retry-after"
PREFLIGHT_S = 600


def create_app(config: ServeConfig, worker: WorkerClient, traces: Traces | None = None) -> FastAPI:
    """The app. It starts the worker when it is started, and stops it when it is stopped.

    Args:
        config: settings.
        worker: makes the pictures.
        traces: where spans go; by default where the settings say.

    Raises:
        DatabaseError: the database's address cannot be understood.
        MissingExtraError: traces are wanted, and what sends them is not installed.
    """
    service = Service.of(config, worker, traces or traces_to(config.traces))

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        try:
            await service.open()
            yield
        finally:
            await service.close()

    about = "Pictures of a person from one photo and a prompt."
    app = FastAPI(
        title="InstantRT",
        version=__version__,
        description=about,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    _add_routes(app, config)
    _describe_keys(app)
    _add_layers(app, config, service)
    return app


def _add_routes(app: FastAPI, config: ServeConfig) -> None:
    for router in (v1.router, v2.router, site.health):
        app.include_router(router)
    if config.metrics:
        app.include_router(site.metrics)
    if config.page:
        app.include_router(site.page)


def _add_layers(app: FastAPI, config: ServeConfig, service: Service) -> None:
    """What is added last sees a request first."""
    app.add_exception_handler(HTTPException, _on_status)
    app.add_exception_handler(RequestValidationError, _on_address)
    app.add_exception_handler(InstantRTError, _on_error)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["content-type", "x-api-key", "idempotency-key"],
            expose_headers=READABLE_HEADERS.split(),
            max_age=PREFLIGHT_S,
        )
    app.add_middleware(
        Envelope,
        metrics=service.metrics,
        traces=service.traces,
        cross_origin=bool(config.cors_origins),
        max_header_bytes=config.max_header_bytes,
    )


def _describe_keys(app: FastAPI) -> None:
    """Put how keys are sent into the description of the API."""
    describe = app.openapi

    def described() -> dict[str, Any]:
        whole = describe()
        whole.setdefault("components", {})["securitySchemes"] = SCHEMES
        return whole

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's own way to extend it


async def _on_status(request: Request, error: Exception) -> Response:
    """The router's refusals: no such address, or not this method."""
    assert isinstance(error, HTTPException)
    response = error_response(error_of_status(error.status_code), note_of(request.scope))
    if error.headers and "allow" in {name.lower() for name in error.headers}:
        response.headers.update(error.headers)
    return response


async def _on_address(request: Request, _error: Exception) -> Response:
    """A part of the address that does not fit, such as a picture's number: there is nothing there."""
    return error_response(error_of_status(404), note_of(request.scope))


async def _on_error(request: Request, error: Exception) -> Response:
    """A mistake of the client, or a server that cannot work just now."""
    assert isinstance(error, InstantRTError)
    told: ApiError = api_error(error)
    note = note_of(request.scope)
    if told.status >= 500:
        log("refused", request_id=note.request_id, code=error.code, told=told.code)
    return error_response(told, note)
