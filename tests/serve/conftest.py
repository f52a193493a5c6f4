"""A server in this process, with a worker that needs no networks."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from doubles.photos import encoded, picture
from instantrt_serve.accounts import keys
from instantrt_serve.accounts.database import Database
from instantrt_serve.app import create_app
from instantrt_serve.config import ServeConfig
from instantrt_serve.service import Service
from serve.fake_worker import FakeWorker

CREDITS = 100
PHOTO = encoded(picture(), "JPEG")
PHOTO_TEXT = base64.b64encode(PHOTO).decode()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Client(httpx.AsyncClient):
    """A client of a server that runs in this process.

    Args:
        service: the server's parts.
        worker: the double below it.
        key: text of a valid key.
    """

    def __init__(self, app: Any, worker: FakeWorker, key: str) -> None:
        super().__init__(
            transport=httpx.ASGITransport(app=app), base_url="http://server", headers={"x-api-key": key}, timeout=30
        )
        self.app, self.worker, self.key = app, worker, key
        self.service: Service = app.state.service

    async def make(self, version: str = "v1", headers: Any = None, **fields: Any) -> httpx.Response:
        """Ask for pictures."""
        body = {"prompt": "a person", "face_image": PHOTO_TEXT, "seed": 7, **fields}
        return await self.post(f"/{version}/instantid", json=body, headers=headers or {})

    async def credits(self) -> int:
        """Of the key, by the books."""
        return (await self.service.books.authenticate(self.key)).credits


Serve = Callable[..., AbstractAsyncContextManager[Client]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """``async with serve(worker, setting=...) as client``: a server; one after the other share a database."""
    url = f"sqlite:///{tmp_path}/serve.db"
    database = Database(url)
    database.migrate()
    _, text = database.run(keys.create_key, "tests", CREDITS)
    database.close()

    @asynccontextmanager
    async def serving(worker: FakeWorker | None = None, **settings: Any) -> AsyncIterator[Client]:
        worker = worker or FakeWorker()
        app = create_app(ServeConfig(database=url, **settings), worker)
        async with app.router.lifespan_context(app), Client(app, worker, text) as client:
            yield client

    return serving
