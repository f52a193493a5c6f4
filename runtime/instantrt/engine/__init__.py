"""What executes a network: an engine is bound to buffers by name once and then enqueued any number of times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from instantrt.contracts import NetworkContract
from instantrt.device import Buffer, Device, Stream

__all__ = ["Engine", "Target"]


class Engine(Protocol):
    """One network made ready on one target."""

    contract: NetworkContract
    busy_ns: int  # time the host spent inside the vendor's execute call since loading

    def bind(self, name: str, buffer: Buffer) -> None:
        """Make ``buffer`` the input or output of that name. Its address must stay valid until rebound or closed."""
        ...

    def enqueue(self, stream: Stream) -> None:
        """Put one execution on the stream. Every input and output must be bound."""
        ...

    def close(self) -> None:
        """Release the engine; may be called more than once."""
        ...


class Target(Protocol):
    """Makes engines from a bundle's networks and owns the device that they run on."""

    @property
    def name(self) -> str:
        """The target's name, as on the command line."""
        ...

    @property
    def device(self) -> Device:
        """Where the engines' buffers live."""
        ...

    def load(self, network: str, symbols: Mapping[str, int]) -> Engine:
        """An engine for ``network`` with these contract symbols fixed; those not named stay free."""
        ...

    def close(self) -> None:
        """Release what the target holds; may be called more than once."""
        ...
