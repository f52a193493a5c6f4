"""Five times more requests than the server can do: what is accepted comes in time, the rest is refused at once."""

from __future__ import annotations

import asyncio
from statistics import median
from typing import Any

import httpx

from instantrt_bench.results.statistics import percentile
from instantrt_bench.serving.client import TIMEOUT_S, Clients
from instantrt_bench.serving.mix import Asked
from instantrt_bench.serving.outcome import DONE, FAILED, REFUSED, Answer
from instantrt_bench.serving.resources import Resources
from instantrt_bench.serving.server import Server, ServerError

FACTOR = 5.0  # times the rate at which requests can be done one after the other
SIDE_PX, STEPS = 64, 4  # of the requests
ALONE = 10  # requests that measure the capacity
ALONE_NUMBERS = 1_000_000  # theirs begin here
RECOVERY_S = 5.0


def asked(number: int) -> Asked:
    """One of the requests."""
    fields = {"prompt": "portrait photo", "num_inference_steps": STEPS, "samples": 1, "guidance_scale": 3.0}
    sides = {"width": SIDE_PX, "height": SIDE_PX}
    return Asked(str(number), number, 0, "photo", {**fields, **sides, "seed": number, "base64": True})


def run_overload(server: Server, photo: bytes, seconds: float) -> dict[str, Any]:
    """Measure the capacity, exceed it, look at what became of everybody, and at the service afterwards."""
    server.wait_until_ready()
    clients = Clients(server.url, [server.create_key("overload").secret], {"photo": photo})
    alone_ms = _alone_ms(clients)
    before = Resources.of(server)
    answers, peak_bytes = asyncio.run(_exceed(server, clients, seconds, 1e3 / alone_ms * FACTOR))
    afterwards_ms = _alone_ms(clients)
    refused = [answer.latency_ms for answer in answers if answer.outcome == REFUSED]
    refused_by_server = [a.server_ms for a in answers if a.outcome == REFUSED and a.server_ms is not None]
    done = [answer.latency_ms for answer in answers if answer.outcome == DONE]
    return {
        "alone_ms": round(alone_ms, 1),
        "sent": len(answers),
        "done": len(done),
        "refused": len(refused),
        "failed": sum(answer.outcome == FAILED for answer in answers),
        "failures": sorted({answer.detail for answer in answers if answer.outcome == FAILED})[:5],
        "done_p99_ms": round(percentile(done, 99), 1),
        "done_max_ms": round(max(done), 1),
        "deadline_ms": server.settings["timeout_s"] * 1e3,
        "refused_p50_ms": round(percentile(refused, 50), 1) if refused else None,
        "refused_p99_ms": round(percentile(refused, 99), 1) if refused else None,
        "refused_server_p99_ms": round(percentile(refused_by_server, 99), 1) if refused_by_server else None,
        "memory_before_bytes": before.memory_bytes,
        "memory_peak_bytes": peak_bytes,
        "alone_afterwards_ms": round(afterwards_ms, 1),
        "done_per_s_ratio_vs_alone": round(len(done) / seconds * alone_ms / 1e3, 3),
    }


def _alone_ms(clients: Clients) -> float:
    """Median of requests one after the other; the first of them may find loops and caches cold."""
    answers = [asyncio.run(clients.send_all([asked(ALONE_NUMBERS + number)]))[0] for number in range(ALONE)]
    if wrong := [answer.detail for answer in answers if answer.outcome != DONE]:
        raise ServerError("requests without load are not answered", found=wrong[0], hint="see the server's log")
    return median(answer.latency_ms for answer in answers)


async def _exceed(server: Server, clients: Clients, seconds: float, per_s: float) -> tuple[list[Answer], int]:
    """Requests at a fixed rate, whatever becomes of them; and the most memory that the server had meanwhile."""
    peak, tasks, count = 0, [], int(per_s * seconds)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=clients.url, timeout=TIMEOUT_S, limits=limits) as http:
        for number in range(count):
            tasks.append(asyncio.create_task(clients.send(http, asked(number))))
            if number % max(1, int(per_s)) == 0:
                peak = max(peak, Resources.of(server).memory_bytes)
            await asyncio.sleep(1 / per_s)
        answers = await asyncio.gather(*tasks)
    await asyncio.sleep(RECOVERY_S)
    return list(answers), peak
