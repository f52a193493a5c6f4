"""A worker that makes deterministic pictures at once, and fails, waits, or dies when a test says so."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from PIL import Image

from instantrt.conditioning.photo import decode_photo
from instantrt.errors import PhotoError
from instantrt_serve.messages import Done, Event, Failed, Progress, Ready, Submit
from instantrt_serve.worker_client import Load, WorkerLostError, WorkerState

READY = Ready(
    model="fake",
    target="fake",
    sizes={"default": (64, 64), "min": (64, 64), "max": (256, 256)},
    slots=4,
    call_ms={"64x64/2": 1.0},
    fixed_ms=1.0,
)
SIDE = 64


def picture_of(work: Submit, number: int) -> bytes:
    """The picture that a job gets, whoever else is served: it depends on all that was asked for."""
    asked = repr((sorted(work.fields.items()), work.face, work.pose, number)).encode()
    red, green, blue = hashlib.sha256(asked).digest()[:3]
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (red, green, blue)).save(file, work.format)
    return file.getvalue()


@dataclass
class FakeWorker:
    """A worker client without a worker.

    Args:
        state: as tests want it.
        load: likewise.
        fail: what the next job ends with.
        die: the worker is lost at the next jobs, so many times.
        gate: jobs wait here before their first and their last call.
        decodes: photos are decoded, as a real worker does.
        seen: jobs in the order in which they came.
        cancelled: jobs whose events were closed early.
    """

    state: WorkerState = WorkerState.READY
    ready: Ready | None = READY
    load: Load = field(default_factory=Load)
    restarts: int = 0
    fail: Failed | None = None
    die: int = 0
    gate: asyncio.Event | None = None
    gate_end: asyncio.Event | None = None
    decodes: bool = False
    delay_s: float = 0.0
    seen: list[Submit] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    stopped: bool = False

    async def start(self) -> None:
        pass

    async def stop(self, drain_s: float) -> None:
        self.stopped, self.state = True, WorkerState.STOPPED

    async def submit(self, work: Submit) -> AsyncGenerator[Event, None]:
        self.seen.append(work)
        ended = False
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.die:
                self.die -= 1
                self.restarts += 1
                ended = True
                raise WorkerLostError("the worker died", found="killed", hint="submit the job again")
            if self.fail is not None:
                ended = True
                yield Failed(work.job, self.fail.code, self.fail.what, self.fail.found, self.fail.hint)
                return
            if self.decodes:
                try:
                    await asyncio.to_thread(decode_photo, work.face)
                except PhotoError as error:
                    ended = True
                    yield Failed(work.job, error.code, error.what, error.found, error.hint)
                    return
            async for event in self._calls(work):
                yield event
            ended = True
            yield self._done(work)
        finally:
            if not ended:
                self.cancelled.append(work.job)

    async def _calls(self, work: Submit) -> AsyncGenerator[Event, None]:
        steps = int(work.fields["steps"] or 0)
        for call in range(1, steps + 1):
            preview = picture_of(work, 0) if work.preview_calls and call % work.preview_calls == 0 else None
            yield Progress(work.job, call, steps, preview)
            await asyncio.sleep(self.delay_s)
            if call == steps // 2 and self.gate_end is not None:
                await self.gate_end.wait()

    def _done(self, work: Submit) -> Done:
        pictures = [picture_of(work, number) for number in range(int(work.fields["samples"] or 0))]
        stages = {"photo": 1.0, "denoise": 5.0}
        return Done(work.job, pictures, int(work.fields["seed"] or 0), SIDE, SIDE, ["several faces"], 2.0, stages)
