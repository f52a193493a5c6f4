"""Activation memory that execution contexts use in turn, and engines that are on the device as long as contexts are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

import numpy as np

from instantrt.device.cuda import CudaBuffer, CudaDevice
from instantrt.errors import DeviceError

Loaded = TypeVar("Loaded")


class Arena:
    """One buffer, as large as the largest engine on the device needs.

    It is allocated when it is first used. An engine that needs more has it allocated anew: ``moves`` then grows, and
    contexts must be told the new place before they execute again. That never happens to contexts whose execution is
    captured, since all engines of a loop are loaded before any of their contexts executes.
    """

    def __init__(self, device: CudaDevice) -> None:
        self.moves = 0
        self._device = device
        self._nbytes = 1
        self._buffer: CudaBuffer | None = None

    def require(self, nbytes: int) -> None:
        """Be at least so large."""
        if nbytes > self._nbytes:
            self.close()
            self._nbytes = nbytes

    def memory(self) -> tuple[int, int]:
        """Address and size in bytes.

        Raises:
            DeviceError: there is not enough memory.
        """
        if self._buffer is None:
            self._buffer = self._device.allocate((self._nbytes,), np.dtype(np.uint8))
        return self._buffer.address, self._nbytes

    def close(self) -> None:
        """Free the memory after the stream's work so far; the arena may be used again."""
        if self._buffer is not None:
            self._buffer.close()
            with suppress(DeviceError):  # what failed was or will be raised where results are read
                self._device.synchronize()  # whatever is loaded next needs the room
            self._buffer = None
            self.moves += 1
        self._nbytes = 1


class LoadedEngines(Generic[Loaded]):
    """Engines by network. Each is on the device from the first :meth:`take` to the last :meth:`give_back`.

    Args:
        load: deserialises a network's plan.
        activation_bytes: what an engine needs of the arena.
        arena: freed with the last engine.

    Attributes:
        loaded: those on the device.
    """

    def __init__(self, load: Callable[[str], Loaded], activation_bytes: Callable[[Loaded], int], arena: Arena) -> None:
        self._load, self._activation_bytes, self._arena = load, activation_bytes, arena
        self.loaded: dict[str, Loaded] = {}
        self._users: dict[str, int] = {}

    def take(self, network: str) -> Loaded:
        """The network's engine, loaded if it is not on the device."""
        if network not in self.loaded:
            engine = self._load(network)
            self._arena.require(self._activation_bytes(engine))
            self.loaded[network], self._users[network] = engine, 0
        self._users[network] += 1
        return self.loaded[network]

    def give_back(self, network: str) -> None:
        """One user less; contexts of the last one must be gone and have executed."""
        if network not in self._users:
            return
        self._users[network] -= 1
        if not self._users[network]:
            del self.loaded[network], self._users[network]
        if not self.loaded:
            self._arena.close()

    def clear(self) -> None:
        """Drop all, whoever uses them."""
        self.loaded.clear()
        self._users.clear()
        self._arena.close()
