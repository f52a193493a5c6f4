"""Thousands of requests: does memory grow, or the number of open files or threads?"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from instantrt_bench.serving.client import Clients
from instantrt_bench.serving.mix import Mix
from instantrt_bench.serving.outcome import latency_figures
from instantrt_bench.serving.resources import Resources
from instantrt_bench.serving.server import Server

PARTS = 8  # looks at the resources; the first part is for what is kept once and for all


def run_soak(server: Server, mix: Mix, photos: Mapping[str, bytes]) -> dict[str, Any]:
    """The mix in parts, the server's resources after each."""
    server.wait_until_ready()
    clients = Clients(server.url, [server.create_key(f"soak-{n}").secret for n in range(mix.accounts)], photos)
    answers, resources = [], []
    for part in range(PARTS):
        own = replace(mix, requests=mix.requests // PARTS, seed=part).draw()
        named = [replace(asked, id=f"{part}-{asked.id}") for asked in own]
        answers += asyncio.run(clients.send_all(named))
        resources.append(Resources.of(server))
    settled, end = resources[PARTS // 4 - 1], resources[-1]
    return {
        "requests": len(answers),
        "outcomes": dict(Counter(answer.outcome for answer in answers)),
        **latency_figures(answers),
        "resources": [found.to_json() for found in resources],
        "memory_growth_bytes": end.memory_bytes - settled.memory_bytes,
        "files_growth": end.files - settled.files,
        "threads_growth": end.threads - settled.threads,
    }
