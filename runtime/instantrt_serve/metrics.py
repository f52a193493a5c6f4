"""What is counted, for Prometheus. No label holds anything that a client chose."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from instantrt_serve.messages import Done
from instantrt_serve.worker_client import WorkerClient, WorkerState

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counts of one server.

    Args:
        worker: asked for its load whenever the counts are read.
    """

    def __init__(self, worker: WorkerClient) -> None:
        self._registry = registry = CollectorRegistry()
        labels = ("route", "method", "status")
        self._requests = Counter("instantrt_http_requests", "answers", labels, registry=registry)
        self._seconds = Histogram(
            "instantrt_http_seconds", "to the answer's end", ("route",), buckets=SECONDS, registry=registry
        )
        self._jobs = Counter("instantrt_jobs", "jobs by how they ended", ("outcome",), registry=registry)
        self._pictures = Counter("instantrt_pictures", "pictures made", registry=registry)
        self._queue = Histogram("instantrt_queue_seconds", "until a job begins", buckets=SECONDS, registry=registry)
        self._stages = Histogram(
            "instantrt_stage_seconds", "of a job by stage", ("stage",), buckets=SECONDS, registry=registry
        )
        self._watch(worker)

    def note_answer(self, route: str, method: str, status: int, seconds: float) -> None:
        """An HTTP answer; ``route`` is the route's pattern, not the address."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def note_done(self, done: Done) -> None:
        """A job that ended with pictures."""
        self._jobs.labels("done").inc()
        self._pictures.inc(len(done.pictures))
        self._queue.observe(done.queue_ms / 1000)
        for stage, stage_ms in done.stages_ms.items():
            self._stages.labels(stage).observe(stage_ms / 1000)

    def note_failed(self, code: str) -> None:
        """A job that ended without."""
        self._jobs.labels(code).inc()

    def text(self) -> bytes:
        """All counts in Prometheus's text format."""
        return generate_latest(self._registry)

    def _watch(self, worker: WorkerClient) -> None:
        gauges: dict[str, tuple[str, Callable[[], float]]] = {
            "ready": ("1 if the worker takes jobs", lambda: worker.state is WorkerState.READY),
            "worker_restarts": ("of the worker's process", lambda: worker.restarts),
            "jobs_waiting": ("jobs that have not begun", lambda: worker.load.waiting),
            "jobs_active": ("jobs on the device", lambda: worker.load.active),
            "backlog_seconds": ("work for the device", lambda: worker.load.backlog_ms / 1000),
        }
        for name, (about, ask) in gauges.items():
            Gauge(f"instantrt_{name}", about, registry=self._registry).set_function(ask)
