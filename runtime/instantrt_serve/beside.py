"""Work on bytes beside the event loop, where it is so much that the loop would be held up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

SMALL_BYTES = 400_000  # parsed or encoded in well below a millisecond; a thread costs about as much


async def beside(size: int, act: Callable[[*Arguments], Result], *args: *Arguments) -> Result:
    """``act(...)`` in a thread; at once if it is only about a few bytes.

    Args:
        size: bytes that it goes through.
        act: what is to be done.
        args: for it.
    """
    return act(*args) if size <= SMALL_BYTES else await asyncio.to_thread(act, *args)
