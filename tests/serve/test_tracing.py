"""Spans of answers and jobs: ids, numbers and codes; in the caller's trace; nothing that was sent."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from instantrt.errors import MissingExtraError
from instantrt_serve.app import create_app
from instantrt_serve.config import ServeConfig
from instantrt_serve.messages import Failed
from instantrt_serve.tracing import Traces, traces_to
from serve.conftest import Client
from serve.fake_worker import FakeWorker
from serve.live import new_app

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.anyio
async def test_answers_and_jobs_are_spans(tmp_path: Path) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="needs the extra `tracing`")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept, provider, worker = InMemorySpanExporter(), sdk.TracerProvider(), FakeWorker()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    first, key = new_app(tmp_path, worker)
    first.state.service.database.close()
    app = create_app(first.state.service.config, worker, Traces(provider.get_tracer("tests")))
    async with app.router.lifespan_context(app), Client(app, worker, key) as client:
        await client.make(prompt="a secret", headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
        worker.fail = Failed("", "no_face", "a secret", "secret", "secret")
        await client.make(prompt="a secret")
    spans = kept.get_finished_spans()
    assert [span.name for span in spans] == ["job", "answer", "job", "answer"]
    assert [span.attributes.get("status") for span in spans] == [None, 200, None, 422]
    assert f"{spans[1].context.trace_id:032x}" == TRACE
    assert spans[0].attributes["denoise"] == 5.0
    assert spans[2].attributes["code"] == "no_face"
    assert all(span.end_time >= span.start_time for span in spans)
    assert "secret" not in "".join(span.to_json() for span in spans)


def test_without_the_packages_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert traces_to(None) is not None
    with pytest.raises(MissingExtraError, match="tracing"):
        create_app(ServeConfig(traces="http://localhost:4318/v1/traces"), FakeWorker())
