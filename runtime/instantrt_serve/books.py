"""The ledger as the event loop uses it: settled now, or as soon as the database can be written again."""

from __future__ import annotations

import asyncio
import logging

from instantrt_serve.accounts import keys, ledger
from instantrt_serve.accounts.database import Database, StorageError
from instantrt_serve.accounts.keys import Key
from instantrt_serve.accounts.ledger import ChargeState
from instantrt_serve.errors import ApiError
from instantrt_serve.logs import log

RETRY_S = 1.0


class Books:
    """Keys and credits of one server.

    Args:
        database: where they are.
        instance: this server's name in it.
        no_keys: everybody is the local account, and nothing costs anything.
    """

    def __init__(self, database: Database, instance: str, no_keys: bool) -> None:
        self._database, self._instance, self._no_keys = database, instance, no_keys
        self._unsettled: dict[str, ChargeState] = {}
        self._settling: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Make or update the tables, and give back what a dead process had reserved."""
        await asyncio.to_thread(self._database.migrate)
        refunded = await self._database.arun(ledger.refund_orphans, self._instance)
        log("books open", refunded=refunded)

    async def authenticate(self, text: str | None) -> Key:
        """Who asks.

        Raises:
            ApiError: no key, an unknown one, or a revoked one; which of them is not told.
        """
        if self._no_keys:
            return await self._database.arun(keys.local_key)
        key = None if text is None else await self._database.arun(keys.authenticate, text)
        if key is None:
            found = "no header x-api-key" if text is None else "another key"
            raise ApiError("unauthorized", "a valid key is needed", found=found, hint="send it as header x-api-key")
        return key

    async def reserve(self, job: str, key: Key, credits_: int) -> int:
        """Set credits aside; gives what is left.

        Raises:
            ApiError: there are too few.
        """
        return await self._database.arun(ledger.reserve, job, key.id, credits_, self._instance)

    async def settle(self, job: str, state: ChargeState) -> int | None:
        """End a charge, and say what the key has left; None if that has to wait for the database.

        It happens even if the caller is cancelled meanwhile.
        """
        return await asyncio.shield(asyncio.ensure_future(self._settle(job, state)))

    async def close(self) -> None:
        """Try once more what is left over. What stays is given back at the next start."""
        if self._settling is not None:
            self._settling.cancel()
        for job, state in list(self._unsettled.items()):
            await self._settle_once(job, state)

    async def _settle(self, job: str, state: ChargeState) -> int | None:
        self._unsettled[job] = state
        credits_ = await self._settle_once(job, state)
        if self._unsettled and (self._settling is None or self._settling.done()):
            self._settling = asyncio.create_task(self._settle_rest())
        return credits_

    async def _settle_once(self, job: str, state: ChargeState) -> int | None:
        try:
            credits_ = await self._database.arun(ledger.settle, job, state)
        except StorageError as error:
            log("charge not settled yet", logging.ERROR, job=job, found=error.found)
            return None
        self._unsettled.pop(job, None)
        return credits_

    async def _settle_rest(self) -> None:
        while self._unsettled:
            await asyncio.sleep(RETRY_S)
            for job, state in list(self._unsettled.items()):
                await self._settle_once(job, state)
