"""What a test says to a worker in its own process, and what it reads out of the answers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from instantrt_serve.messages import Done, Failed, FromWorker

Pixels = npt.NDArray[np.uint8]


class ScriptedConnection:
    """Hands a worker what a test wants said, and keeps what the worker says.

    Args:
        items: there from the start.
        react: called with each of the worker's messages; what it gives is said to the worker.
    """

    def __init__(self, items: list[Any], react: Callable[[FromWorker], Any] = lambda _: None) -> None:
        self.sent: list[FromWorker] = []
        self._react = react
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        for item in items:
            self._inbox.put(item)

    def send(self, message: FromWorker) -> None:
        self.sent.append(message)
        answer = self._react(message)
        if answer is not None:
            self._inbox.put(answer)

    def put(self, item: Any) -> None:
        self._inbox.put(item)

    def receive(self, timeout_s: float | None) -> Any:
        with suppress(Empty):
            return self._inbox.get(block=timeout_s != 0, timeout=timeout_s or None)
        return None


def answers(said: list[FromWorker]) -> dict[str, Done | Failed]:
    """By job, in the order in which they were given."""
    return {message.job: message for message in said if isinstance(message, Done | Failed)}


def pictures(answer: Done | Failed) -> Pixels:
    assert isinstance(answer, Done), answer
    return np.stack([np.asarray(Image.open(BytesIO(file))) for file in answer.pictures])
