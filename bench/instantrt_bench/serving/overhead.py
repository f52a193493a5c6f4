"""What HTTP, books and two processes add to a request: the same one over HTTP and by the runtime, in turn."""

from __future__ import annotations

import json
import time
from statistics import median
from typing import Any

import httpx

from instantrt import InstantID
from instantrt_bench.serving.alone import make_alone
from instantrt_bench.serving.client import TIMEOUT_S, Clients, server_timing
from instantrt_bench.serving.mix import Asked
from instantrt_bench.serving.server import Server

RUNS = 40


def run_overhead(server: Server, clients: Clients, runs: int) -> dict[str, Any]:
    """Medians over alternating runs of one request.

    ``http_overhead_ms`` is what a client waits beyond what the runtime takes in this process, from the photo's file to
    the picture's; ``first_byte_after_decoding_ms`` is what it waits for the answer's first byte after the last picture
    was decoded, and what the request needs on its way to the server.
    """
    photo = next(iter(clients.photos))
    body = {"prompt": "portrait photo", "num_inference_steps": 10, "guidance_scale": 3.0, "seed": 1, "samples": 1}
    asked = Asked("overhead", 0, 0, photo, body)
    overhead, first_byte, latencies = [], [], []
    with InstantID.load(server.bundle, threads=server.threads) as pipeline, _connected(clients) as http:
        for _ in range(runs + 1):
            made = make_alone(pipeline, asked, clients.photos)
            latency_ms, first_byte_ms = _timed(http, clients.body(asked))
            latencies.append(latency_ms)
            overhead.append(latency_ms - made.latency_ms)
            first_byte.append(first_byte_ms)
    return {  # the first run loads what first requests load
        "http_latency_ms": round(median(latencies[1:]), 2),
        "http_overhead_ms": round(median(overhead[1:]), 2),
        "first_byte_after_decoding_ms": round(median(first_byte[1:]), 2),
    }


def _connected(clients: Clients) -> httpx.Client:
    return httpx.Client(base_url=clients.url, timeout=TIMEOUT_S, headers={"x-api-key": clients.keys[0]})


def _timed(http: httpx.Client, body: dict[str, Any]) -> tuple[float, float]:
    """Milliseconds to the last byte, and to the first one after the last picture was decoded."""
    content, headers = json.dumps(body).encode(), {"content-type": "application/json"}
    began = time.perf_counter()
    with http.stream("POST", "/v1/instantid", content=content, headers=headers) as answer:
        first_ms = (time.perf_counter() - began) * 1e3
        answer.read()
    latency_ms = (time.perf_counter() - began) * 1e3
    answer.raise_for_status()
    timing = server_timing(answer.headers["server-timing"])
    return latency_ms, timing["answer"] + first_ms - timing["total"]
