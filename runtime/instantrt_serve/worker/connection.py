"""The worker's end of the one local connection: threads read and write frames, the main thread sees a queue."""

from __future__ import annotations

from collections.abc import Callable
from io import RawIOBase
from queue import Empty, SimpleQueue
from threading import Thread
from typing import BinaryIO

from instantrt_serve.frames import decode_to_worker, frame, read_frame
from instantrt_serve.messages import FromWorker, ToWorker

FLUSH_S = 5.0


class Hangup:
    """The other side is gone: nobody waits for an answer any more."""


Received = ToWorker | Hangup | Callable[[], None]
"""A message; the end of the connection; or what another thread wants done in the main one."""


class Connection:
    """Frames in and out.

    Args:
        source: where messages come from, without a buffer.
        sink: where messages go.
    """

    def __init__(self, source: RawIOBase, sink: BinaryIO) -> None:
        self._source, self._sink = source, sink
        self._inbox: SimpleQueue[Received] = SimpleQueue()
        self._outbox: SimpleQueue[FromWorker | None] = SimpleQueue()
        Thread(target=self._read, name="reader", daemon=True).start()
        self._writer = Thread(target=self._write, name="writer", daemon=True)
        self._writer.start()

    def send(self, message: FromWorker) -> None:
        """Send a message, from any thread; never waits for the other side."""
        self._outbox.put(message)

    def put(self, item: Received) -> None:
        """Let :meth:`receive` give this, from any thread."""
        self._inbox.put(item)

    def receive(self, timeout_s: float | None) -> Received | None:
        """The next message; None if there was none for so long. 0 does not wait, None waits for ever."""
        try:
            return self._inbox.get(block=timeout_s != 0, timeout=timeout_s or None)
        except Empty:
            return None

    def close(self) -> None:
        """Wait until everything sent is written, or nobody has read it for a while."""
        self._outbox.put(None)
        self._writer.join(FLUSH_S)

    def _read(self) -> None:
        try:
            while (body := read_frame(self._source)) is not None:
                self._inbox.put(decode_to_worker(body))
        finally:
            self._inbox.put(Hangup())

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._sink.write(frame(message))
                self._sink.flush()
            except OSError:  # the other side is gone
                self._inbox.put(Hangup())
                return
