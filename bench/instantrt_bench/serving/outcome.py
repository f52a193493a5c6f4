"""What became of the requests of a load test, in numbers."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from PIL import Image

from instantrt_bench.results.statistics import percentile
from instantrt_bench.serving.mix import Asked

DONE, CANCELLED, REFUSED, FAILED = "done", "cancelled", "refused", "failed"


@dataclass(frozen=True)
class Answer:
    """What a client saw.

    Args:
        asked: the request.
        outcome: ``done``; ``cancelled``: the client went away; ``refused``: 429 or 503, with the word to come again;
            ``failed``: anything else.
        sent_s: by the load test's clock.
        answered_s: likewise.
        files: of the pictures, as base64.
        charges: ids under which the server may have charged it: one, or it was done more than once.
        detail: status and code of an answer without pictures.
        server_ms: of an answer without pictures, what the server says that it took.
    """

    asked: Asked
    outcome: str
    sent_s: float
    answered_s: float
    files: tuple[str, ...] = ()
    charges: tuple[str, ...] = ()
    detail: str = ""
    server_ms: float | None = None

    @property
    def latency_ms(self) -> float:
        """From sending the request to the last byte of its answer."""
        return (self.answered_s - self.sent_s) * 1e3

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """Of the pixels of each picture; not before they are asked for, so that clients take little of the CPU."""
        return tuple(pixels_digest(base64.b64decode(file)) for file in self.files)


def pixels_digest(file: bytes) -> str:
    """SHA-256 of a picture's pixels."""
    return hashlib.sha256(Image.open(io.BytesIO(file)).tobytes()).hexdigest()


def fifo_latency_ms(answers: Sequence[Answer], service_ms: Mapping[str, float]) -> dict[str, float]:
    """Latency of each request by id, had the same requests come at the same times and run one after the other.

    Args:
        answers: when each was sent.
        service_ms: how long each takes alone, by id.
    """
    free_ms, latency = 0.0, {}
    for answer in sorted(answers, key=lambda a: a.sent_s):
        arrival_ms = answer.sent_s * 1e3
        free_ms = max(free_ms, arrival_ms) + service_ms[answer.asked.id]
        latency[answer.asked.id] = free_ms - arrival_ms
    return latency


def short_wait_ratio(answers: Sequence[Answer], service_ms: Mapping[str, float]) -> float | None:
    """Median over short requests of the time beyond their own work, against that of first come, first served.

    None where there is no short request that would have waited.
    """
    fifo = fifo_latency_ms(answers, service_ms)
    short = [a for a in answers if a.asked.is_short]
    waited = [max(0.0, a.latency_ms - service_ms[a.asked.id]) for a in short]
    would_wait = [fifo[a.asked.id] - service_ms[a.asked.id] for a in short]
    if not short or median(would_wait) <= 0:
        return None
    return median(waited) / median(would_wait)


def latency_figures(answers: Sequence[Answer]) -> dict[str, float]:
    """Percentiles of what was done."""
    latencies = [a.latency_ms for a in answers if a.outcome == DONE]
    return {f"p{p}_ms": round(percentile(latencies, p), 1) for p in (50, 95, 99)} if latencies else {}
