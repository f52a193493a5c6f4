"""The parts of one server, put together once, and what the routes of both versions share."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request

from instantrt_serve.accounts.database import Database
from instantrt_serve.accounts.keys import Key
from instantrt_serve.accounts.ledger import price
from instantrt_serve.body import BodyReader
from instantrt_serve.books import Books
from instantrt_serve.config import ServeConfig
from instantrt_serve.dispatch import Dispatch
from instantrt_serve.envelope import note_of
from instantrt_serve.errors import ApiError
from instantrt_serve.fetch import Fetcher
from instantrt_serve.jobs import Jobs
from instantrt_serve.metrics import Metrics
from instantrt_serve.options import is_loopback
from instantrt_serve.photos import Photos
from instantrt_serve.tracing import Traces
from instantrt_serve.worker_client import WorkerClient

Result = TypeVar("Result")


@dataclass(frozen=True)
class Service:
    """One server. ``config`` is kept; the others do the work."""

    config: ServeConfig
    database: Database
    books: Books
    bodies: BodyReader
    dispatch: Dispatch
    jobs: Jobs
    metrics: Metrics
    traces: Traces

    @classmethod
    def of(cls, config: ServeConfig, worker: WorkerClient, traces: Traces) -> Service:
        """All parts for these settings.

        Raises:
            DatabaseError: the database's address cannot be understood.
        """
        database, metrics = Database(config.database), Metrics(worker)
        books = Books(database, config.instance, config.no_keys)
        dispatch = Dispatch(config, worker, metrics, traces)
        hosts = frozenset(config.fetch_hosts)
        fetcher = Fetcher(hosts, config.fetch_timeout_s, config.max_body_bytes) if hosts else None
        bodies = BodyReader(config, Photos(fetcher))
        return cls(config, database, books, bodies, dispatch, Jobs(config, database, dispatch), metrics, traces)

    async def open(self) -> None:
        """Open the books, start the worker, take up jobs that were left."""
        await self.books.open()
        await self.dispatch.worker.start()
        await self.jobs.open()

    async def close(self) -> None:
        """End what is in work; jobs of v2 that have not ended are taken up at the next start."""
        self.dispatch.stopping.set()
        await self.jobs.close()
        await self.dispatch.worker.stop(self.config.drain_s)
        await self.books.close()
        await asyncio.to_thread(self.database.close)

    async def authenticate(self, request: Request) -> Key:
        """Whose request it is; noted for the answer's headers.

        Raises:
            ApiError: ``unauthorized``.
        """
        if self.config.no_keys:
            _check_local(request, self.config.cors_origins)
        key, note = await self.books.authenticate(request.headers.get("x-api-key")), note_of(request.scope)
        note.key, note.credits = key.id, key.credits
        return key

    @property
    def unit_price(self) -> int:
        """Credits for a picture and each started ten steps; nothing without keys."""
        return 0 if self.config.no_keys else self.config.price

    def price(self, fields: dict[str, Any]) -> int:
        """Credits that a request costs; nothing without keys."""
        return price(fields["samples"], fields["steps"], self.unit_price)

    def tags(self, request_id: str) -> dict[str, str]:
        """Written into each picture."""
        return {"request_id": request_id} if self.config.provenance else {}


def _check_local(request: Request, origins: tuple[str, ...]) -> None:
    """Without keys, pages of other websites must not use a visitor's server, under its own name or under theirs.

    Raises:
        ApiError: ``unauthorized``.
    """
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    own = origin is None or origin in origins or origin.partition("://")[2] == host
    if not is_loopback(name.strip("[]")) or not own:
        found = "a request for, or from, another website"
        raise ApiError("unauthorized", "without keys only this machine is served", found=found, hint="use a key")


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What ``work`` gives, which is cancelled if the client goes away. The body must have been read.

    Raises:
        ApiError: ``cancelled``: there is nobody any more to tell.
    """
    tasks = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0].done():
            return tasks[0].result()
        raise ApiError("cancelled", "the client went away", hint="wait for the answer")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def service_of(request: Request) -> Service:
    """Of the app that answers."""
    service: Service = request.app.state.service
    return service
