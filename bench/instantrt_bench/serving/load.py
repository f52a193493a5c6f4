"""Many clients at once: is anything lost, done twice, mixed up, starved, or charged wrongly?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any

from instantrt import InstantID
from instantrt_bench.serving.alone import Made, make_alone
from instantrt_bench.serving.books import credit_error, read_charges
from instantrt_bench.serving.client import Clients
from instantrt_bench.serving.mix import Asked, Mix
from instantrt_bench.serving.outcome import CANCELLED, DONE, Answer, latency_figures, short_wait_ratio
from instantrt_bench.serving.overhead import RUNS, run_overhead
from instantrt_bench.serving.server import GRANT, Server


def run_load(server: Server, mix: Mix, photos: Mapping[str, bytes], overhead_runs: int = RUNS) -> dict[str, Any]:
    """The mix from all clients at once, then one request at a time over HTTP and by the runtime alone."""
    server.wait_until_ready()
    keys = [server.create_key(f"load-{number}") for number in range(mix.accounts)]
    clients = Clients(server.url, [key.secret for key in keys], photos)
    began = perf_counter()
    answers = asyncio.run(clients.send_all(mix.draw()))
    wall_ms = (perf_counter() - began) * 1e3
    charges, left = read_charges(server.database), sum(server.credits().values())
    done = [answer for answer in answers if answer.outcome == DONE]
    made, digests = _one_at_a_time(server, clients, [answer.asked for answer in done])
    service_ms = {answer.asked.id: made[answer.asked.id].latency_ms for answer in done}
    return {
        "requests": mix.requests,
        "clients": mix.clients,
        "done": len(done),
        "cancelled": sum(answer.outcome == CANCELLED for answer in answers),
        "lost": mix.requests - sum(answer.outcome in (DONE, CANCELLED) for answer in answers),
        "duplicated": _duplicated(done, charges),
        "different_pictures": sum(answer.digests != digests[answer.asked.id] for answer in done),
        "different_from_generate": sum(answer.digests != made[answer.asked.id].digests for answer in done),
        "credit_error": credit_error(answers, charges, GRANT * mix.accounts, left),
        "throughput_ratio_vs_serial": round(sum(service_ms.values()) / wall_ms, 4),
        **latency_figures(answers),
        "short_request_wait_ratio_vs_fifo": _rounded(short_wait_ratio(done, service_ms)),
        **run_overhead(server, clients, overhead_runs),
        "wall_s": round(wall_ms / 1e3, 1),
        "serial_s": round(sum(service_ms.values()) / 1e3, 1),
        "failures": [answer.detail for answer in answers if answer.outcome not in (DONE, CANCELLED)][:20],
    }


def _one_at_a_time(
    server: Server, clients: Clients, asked: Sequence[Asked]
) -> tuple[dict[str, Made], dict[str, tuple[str, ...]]]:
    """By id: what the runtime makes alone, and digests of what comes over HTTP alone."""
    made, digests = {}, {}
    with InstantID.load(server.bundle, threads=server.threads) as pipeline:
        make_alone(pipeline, asked[0], clients.photos)  # loads what first requests load
        for one in asked:
            digests[one.id] = asyncio.run(clients.send_all([_plain(one)]))[0].digests
            made[one.id] = make_alone(pipeline, one, clients.photos)
    return made, digests


def _plain(asked: Asked) -> Asked:
    return Asked(asked.id, 0, asked.account, asked.photo, asked.body)


def _duplicated(done: Sequence[Answer], charges: Mapping[str, Any]) -> int:
    """Requests that were done more than once, or under more than one id."""
    return sum(len([job for job in answer.charges if job in charges]) != 1 for answer in done)


def _rounded(ratio: float | None) -> float | None:
    return None if ratio is None else round(ratio, 4)
