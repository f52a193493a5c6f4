"""Clients of a server under test: they send bodies, and note when and what came back."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from instantrt_bench.serving.mix import Asked
from instantrt_bench.serving.outcome import CANCELLED, DONE, FAILED, REFUSED, Answer

BUSY = (429, 503)  # come again later
ENDED = ("done", "failed", "cancelled")
TIMEOUT_S = 900.0
POLL_S = 0.1


@dataclass(frozen=True)
class Clients:
    """Sends requests to one server.

    Args:
        url: of the server.
        keys: a secret per account.
        photos: files by name.
        run: names this run in idempotency keys.
        began_s: where the test's clock began, by :func:`time.perf_counter`.
    """

    url: str
    keys: Sequence[str]
    photos: Mapping[str, bytes]
    run: str = "load"
    began_s: float = field(default_factory=time.perf_counter)

    async def send_all(self, asked: Iterable[Asked]) -> list[Answer]:
        """Every client sends its own requests one after the other, and all clients at the same time."""
        per_client: dict[int, list[Asked]] = {}
        for one in asked:
            per_client.setdefault(one.client, []).append(one)
        limits = httpx.Limits(max_connections=len(per_client) + 8)
        async with httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT_S, limits=limits) as http:
            answers = await asyncio.gather(*(self._send_each(http, own) for own in per_client.values()))
        return [answer for own in answers for answer in own]

    async def send(self, http: httpx.AsyncClient, asked: Asked) -> Answer:
        """One request; its client goes away before the answer if that is the plan."""
        sent_s = self._now_s()
        ask = self._submit_twice if asked.twice else self._post
        try:
            async with asyncio.timeout(asked.cancel_after_s):
                return await ask(http, asked, sent_s)
        except TimeoutError:
            return Answer(asked, CANCELLED, sent_s, self._now_s())
        except httpx.TransportError as error:
            return Answer(asked, FAILED, sent_s, self._now_s(), detail=type(error).__name__)

    def body(self, asked: Asked) -> dict[str, Any]:
        """The whole body, its photo as base64."""
        fields = {name: value for name, value in asked.body.items() if value is not None}
        return {**fields, "face_image": base64.b64encode(self.photos[asked.photo]).decode()}

    async def _send_each(self, http: httpx.AsyncClient, own: list[Asked]) -> list[Answer]:
        return [await self.send(http, asked) for asked in own]

    async def _post(self, http: httpx.AsyncClient, asked: Asked, sent_s: float) -> Answer:
        answer = await http.post("/v1/instantid", json=self.body(asked), headers=self.headers(asked))
        if answer.status_code != 200:
            return self._refused(asked, sent_s, answer)
        text = answer.headers["content-type"].startswith("text/plain")
        files = [answer.text] if text else answer.json()
        return self._done(asked, sent_s, files, (answer.headers["x-request-id"],))

    async def _submit_twice(self, http: httpx.AsyncClient, asked: Asked, sent_s: float) -> Answer:
        """As a client does that did not hear the first answer."""
        headers = {**self.headers(asked), "idempotency-key": f"{self.run}-{asked.id}"}
        submit = [http.post("/v2/instantid", json=self.body(asked), headers=headers) for _ in range(2)]
        answers = await asyncio.gather(*submit)
        refused = next((a for a in answers if a.status_code != 202), None)
        if refused is not None:
            return self._refused(asked, sent_s, refused)
        jobs = tuple(dict.fromkeys(str(a.json()["id"]) for a in answers))
        job = await self.follow(http, jobs[0], headers)
        if job["status"] != "done":
            return Answer(asked, FAILED, sent_s, self._now_s(), (), jobs, f"{job['status']}: {job['error']}")
        return self._done(asked, sent_s, job["result"]["base64"], jobs)

    async def follow(self, http: httpx.AsyncClient, job: str, headers: dict[str, str]) -> dict[str, Any]:
        """A job once it has ended."""
        while True:
            found = (await http.get(f"/v2/instantid/{job}", headers=headers)).json()
            if found["status"] in ENDED:
                return dict(found)
            await asyncio.sleep(POLL_S)

    def _done(self, asked: Asked, sent_s: float, files: list[str], charges: tuple[str, ...]) -> Answer:
        return Answer(asked, DONE, sent_s, self._now_s(), tuple(files), charges)

    def _refused(self, asked: Asked, sent_s: float, answer: httpx.Response) -> Answer:
        outcome = REFUSED if answer.status_code in BUSY else FAILED
        detail = f"{answer.status_code} {answer.text[:300]}"
        server_ms = server_timing(answer.headers["server-timing"])["total"]
        return Answer(asked, outcome, sent_s, self._now_s(), (), (answer.headers["x-request-id"],), detail, server_ms)

    def headers(self, asked: Asked) -> dict[str, str]:
        """The key of the account that asks."""
        return {"x-api-key": self.keys[asked.account]}

    def _now_s(self) -> float:
        return time.perf_counter() - self.began_s


def server_timing(header: str) -> dict[str, float]:
    """Milliseconds by name from a ``Server-Timing`` header."""
    entries = (entry.strip().partition(";dur=") for entry in header.split(","))
    return {name: float(ms) for name, _, ms in entries}
