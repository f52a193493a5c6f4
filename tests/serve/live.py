"""A server on a port of this machine, in a thread of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

from instantrt_serve.accounts import keys
from instantrt_serve.accounts.database import Database
from instantrt_serve.app import create_app
from instantrt_serve.config import ServeConfig
from instantrt_serve.run_serve import uvicorn_config
from serve.fake_worker import FakeWorker


@dataclass(frozen=True)
class Live:
    """Where it is, a key for it, and the double below it."""

    url: str
    key: str
    worker: FakeWorker
    app: Any


def new_app(folder: Path, worker: FakeWorker, credits_: int = 10**6, **settings: Any) -> tuple[FastAPI, str]:
    """An app with a database of its own, and a key for it."""
    config = ServeConfig(database=f"sqlite:///{folder}/live.db", **settings)
    database = Database(config.database)
    database.migrate()
    _, text = database.run(keys.create_key, "tests", credits_)
    database.close()
    return create_app(config, worker), text


@contextmanager
def live_server(
    folder: Path, worker: FakeWorker | None = None, credits_: int = 10**6, **settings: Any
) -> Iterator[Live]:
    """Serve until the block ends."""
    worker = worker or FakeWorker()
    app, text = new_app(folder, worker, credits_, port=0, **settings)
    server = uvicorn.Server(uvicorn_config(app, app.state.service.config))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        host, port = server.servers[0].sockets[0].getsockname()[:2]
        yield Live(f"http://{host}:{port}", text, worker, app)
    finally:
        server.should_exit = True
        thread.join()
