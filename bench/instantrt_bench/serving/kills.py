"""The worker or the server killed at random under load: no credit and no job may be lost, and service comes back."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx

from instantrt_bench.serving.books import read_charges
from instantrt_bench.serving.client import ENDED, POLL_S, Clients
from instantrt_bench.serving.mix import Asked, Mix
from instantrt_bench.serving.outcome import DONE, Answer
from instantrt_bench.serving.server import GRANT, Server
from instantrt_serve.accounts.ledger import ChargeState

BETWEEN_S = (0.5, 3.0)
END_S = 300.0


def run_kills(server: Server, mix: Mix, photos: Mapping[str, bytes], kills: int) -> dict[str, Any]:
    """Kill so often while clients send, then let every job end, and count."""
    server.wait_until_ready()
    keys = [server.create_key(f"kills-{number}") for number in range(mix.accounts)]
    clients = Clients(server.url, [key.secret for key in keys], photos, run="kills")
    chance = random.Random(mix.seed)  # noqa: S311 - which process dies when, no secret
    answers, jobs, ready_s, killed = asyncio.run(_under_load(server, clients, mix, kills, chance))
    ended = asyncio.run(_end_of(clients, jobs))
    charges, left = read_charges(server.database), sum(server.credits().values())
    states = Counter(charge.state for charge in charges.values())
    taken = sum(charge.credits for charge in charges.values() if charge.state == ChargeState.COMMITTED)
    unpaid = [a for a in answers if a.outcome == DONE and _state(charges, a) != ChargeState.COMMITTED]
    return {
        "kills": dict(Counter(killed)),
        "v1_outcomes": dict(Counter(answer.outcome for answer in answers)),
        "v2_jobs": len(jobs),
        "v2_outcomes": dict(Counter(ended.values())),
        "v2_lost": sum(state != "done" for state in ended.values()),
        "charges": dict(states),
        "credit_error": abs(GRANT * mix.accounts - left - taken) + states[ChargeState.RESERVED] + len(unpaid),
        "ready_again_s": [round(seconds, 2) for seconds in ready_s],
        "ready_again_max_s": round(max(ready_s), 2),
    }


async def _under_load(
    server: Server, clients: Clients, mix: Mix, kills: int, chance: random.Random
) -> tuple[list[Answer], list[tuple[str, Asked]], list[float], list[str]]:
    answers: list[Answer] = []
    jobs: list[tuple[str, Asked]] = []
    asked = mix.draw()
    over = asyncio.Event()

    async def client(number: int) -> None:
        own = [one for one in asked if one.client == number]
        async with httpx.AsyncClient(base_url=clients.url, timeout=60) as http:
            for one in own * 1000:
                if over.is_set():
                    return
                if one.twice:
                    jobs.extend([(job, one) for job in await _submitted(clients, http, one)])
                else:
                    answers.append(await clients.send(http, one))
                await asyncio.sleep(POLL_S)

    tasks = [asyncio.create_task(client(number)) for number in range(mix.clients)]
    ready_s, killed = [], []
    for _ in range(kills):
        await asyncio.sleep(chance.uniform(*BETWEEN_S))
        victim = chance.choice(["worker", "server"])
        killed.append(victim)
        ready_s.append(await asyncio.to_thread(_kill, server, victim))
    over.set()
    await asyncio.gather(*tasks)
    return answers, jobs, ready_s, killed


def _kill(server: Server, victim: str) -> float:
    """Seconds until the service is ready again."""
    began = time.monotonic()
    if victim == "worker":
        server.kill_worker()
        time.sleep(POLL_S)
    else:
        server.kill()
        server.start()
    server.wait_until_ready()
    return time.monotonic() - began


async def _submitted(clients: Clients, http: httpx.AsyncClient, asked: Asked) -> list[str]:
    """The job's id, if the server said that it has it."""
    try:
        answer = await http.post("/v2/instantid", json=clients.body(asked), headers=clients.headers(asked))
    except httpx.TransportError:
        return []
    return [str(answer.json()["id"])] if answer.status_code == 202 else []


async def _end_of(clients: Clients, jobs: list[tuple[str, Asked]]) -> dict[str, str]:
    """How each job ended; one that has not after :data:`END_S` is as it is."""
    ended = {}
    deadline = time.monotonic() + END_S
    async with httpx.AsyncClient(base_url=clients.url, timeout=60) as http:
        for job, asked in jobs:
            while True:
                found = (await http.get(f"/v2/instantid/{job}", headers=clients.headers(asked))).json()
                ended[job] = str(found.get("status", "unknown"))
                if ended[job] in ENDED or time.monotonic() > deadline:
                    break
                await asyncio.sleep(POLL_S)
    return ended


def _state(charges: Mapping[str, Any], answer: Answer) -> str | None:
    return next((charges[job].state for job in answer.charges if job in charges), None)
