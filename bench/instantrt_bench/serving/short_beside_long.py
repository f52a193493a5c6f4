"""A short request while a long one runs: neither may cost the other more than its share."""

from __future__ import annotations

import asyncio
from statistics import median
from typing import Any

from instantrt_bench.serving.client import Clients
from instantrt_bench.serving.mix import Asked
from instantrt_bench.serving.outcome import Answer
from instantrt_bench.serving.server import Server

ALONE = 5  # runs of each without the other
SENT_AFTER = 0.1  # of the long one's time
LONG_STEPS, SHORT_STEPS = 100, 4


def run_short_beside_long(server: Server, photo: bytes, rounds: int) -> dict[str, Any]:
    """A request of 4 steps sent while one of 100 steps runs, against first come, first served."""
    server.wait_until_ready()
    keys = [server.create_key(name).secret for name in ("long", "short")]
    clients = Clients(server.url, keys, {"photo": photo})
    long, short = _asked("long", 0, LONG_STEPS), _asked("short", 1, SHORT_STEPS)
    alone = [asyncio.run(clients.send_all([one]))[0].latency_ms for _ in range(ALONE) for one in (long, short)]
    long_ms, short_ms = median(alone[0::2]), median(alone[1::2])
    pairs = [asyncio.run(_beside(clients, long, short, long_ms * SENT_AFTER / 1e3)) for _ in range(rounds)]
    fifo_ms = long_ms * (1 - SENT_AFTER) + short_ms
    return {
        "rounds": rounds,
        "long_alone_ms": round(long_ms, 1),
        "short_alone_ms": round(short_ms, 1),
        "short_ms": round(median(s.latency_ms for _, s in pairs), 1),
        "short_fifo_ms": round(fifo_ms, 1),
        "short_ratio_vs_fifo": round(median(s.latency_ms for _, s in pairs) / fifo_ms, 4),
        "long_ms": round(median(one.latency_ms for one, _ in pairs), 1),
        "long_ratio_vs_both_alone": round(median(one.latency_ms for one, _ in pairs) / (long_ms + short_ms), 4),
    }


async def _beside(clients: Clients, long: Asked, short: Asked, after_s: float) -> tuple[Answer, Answer]:
    first = asyncio.create_task(clients.send_all([long]))
    await asyncio.sleep(after_s)
    second = await clients.send_all([short])
    return (await first)[0], second[0]


def _asked(name: str, account: int, steps: int) -> Asked:
    body = {"prompt": "portrait photo", "num_inference_steps": steps, "guidance_scale": 3.0, "seed": 1, "base64": True}
    return Asked(name, account, account, "photo", {**body, "samples": 1})
