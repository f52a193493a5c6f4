"""What executes a network: an engine is bound to buffers by name once and then enqueued any number of times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import local
from time import perf_counter_ns
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from instantrt.errors import RequestError
from instantrt.plain import Range, shown, whole_number
from instantrt.residency import RESIDENCY_OPTIONS, Residency, ResidencyOption
from instantrt.threads import THREADS

if TYPE_CHECKING:  # command lines import this package and shall not wait for numpy
    from instantrt.contracts import NetworkContract
    from instantrt.device import Buffer, Device, Stream

__all__ = ["ONNXRUNTIME", "ONNXRUNTIME_CUDA", "OPENVINO", "BusyTime", "Engine", "Target", "TargetOptions"]

# Targets; those of TensorRT are FLAVOURS.
ONNXRUNTIME, ONNXRUNTIME_CUDA, OPENVINO = "onnxruntime", "onnxruntime-cuda", "openvino"

PrecisionHint = Literal["f32", "bf16"]
"""What a target may compute in, whatever the bundle's precision is."""
OpenVinoDevice = Literal["CPU", "GPU", "NPU"]
"""The kinds of device that OpenVINO knows; GPU and NPU are Intel's."""

PRECISION_HINTS: tuple[PrecisionHint, ...] = get_args(PrecisionHint)
OPENVINO_DEVICES: tuple[OpenVinoDevice, ...] = get_args(OpenVinoDevice)

NUMBERS = {"threads": THREADS, "device": Range(0, 2**31 - 1), "weight_budget_bytes": Range(0, 2**63 - 1)}
"""The ranges of those of a target's options that are numbers."""
CHOICES: dict[str, tuple[str, ...]] = {
    "residency": RESIDENCY_OPTIONS,
    "precision_hint": PRECISION_HINTS,
    "openvino_device": OPENVINO_DEVICES,
}
"""The values of those that are names."""


@dataclass(frozen=True)
class TargetOptions:
    """How a target runs; see :meth:`instantrt.pipeline.InstantID.load`. None is the target's own choice.

    Raises:
        RequestError: a number that is not whole or out of range, or an unknown name.
    """

    threads: int | None = None
    device: int | None = None
    weight_budget_bytes: int | None = None
    runtime_cache: Path | None = None
    residency: ResidencyOption | None = None
    precision_hint: PrecisionHint | None = None
    openvino_device: OpenVinoDevice | None = None

    def __post_init__(self) -> None:
        for name, allowed in NUMBERS.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, whole_number(name, value, allowed))
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value is not None and value not in known:
                what = f"unknown {name.replace('_', ' ')}"
                raise RequestError(what, found=shown(value), hint=f"use one of: {', '.join(known)}")

    def check(self, target: str, supported: tuple[str, ...]) -> None:
        """Raise :class:`RequestError` for an option that ``target`` lacks."""
        for name, value in vars(self).items():
            if value is not None and name not in supported:
                has = ", ".join(supported) or "none"
                raise RequestError(f"{target} has no option {name}", found=str(value), hint=f"it has: {has}")


class BusyTime(local):
    """How long each thread has executed. What a stream's own thread does takes none of the time of who waits for it.

    Entered and left in every call, when nothing of ours is in the caches any more: so no more than two plain methods.
    """

    def __init__(self) -> None:
        self.ns = 0  # of the calling thread
        self._start = 0

    def measured(self) -> BusyTime:
        """For a ``with`` statement: the time inside counts."""
        return self

    def __enter__(self) -> None:
        self._start = perf_counter_ns()

    def __exit__(self, *_: object) -> None:
        self.ns += perf_counter_ns() - self._start


class Engine(Protocol):
    """One network made ready on one target."""

    contract: NetworkContract

    @property
    def busy_ns(self) -> int:
        """Time that the calling thread has spent inside the vendor's execute call since loading."""
        ...

    def bind(self, name: str, buffer: Buffer) -> None:
        """Make ``buffer`` the input or output of that name. Its address must stay valid until rebound or closed."""
        ...

    def warm_up(self, stream: Stream, *, capture: bool) -> None:
        """Finish what the target leaves to the first execution; may execute once and so write the outputs.

        Args:
            stream: where :meth:`enqueue` will be called.
            capture: it will be called while a graph is being captured; raises if the target cannot do that.
        """
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

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the caller should know of how it runs, e.g. that an option was more than helps."""
        ...

    @property
    def residency(self) -> Residency:
        """How long weights stay on the device: until an engine is closed, if ``staged``."""
        ...

    @property
    def capturable(self) -> bool:
        """Whether its engines may be enqueued while a graph is being captured. If not, loops run eagerly."""
        ...

    def accepts(self, network: str, symbols: Mapping[str, int]) -> bool:
        """Whether :meth:`load` can give an engine for ``network`` with these contract symbols."""
        ...

    def load(self, network: str, symbols: Mapping[str, int]) -> Engine:
        """An engine for ``network`` with these contract symbols fixed; those not named stay free."""
        ...

    def close(self) -> None:
        """Release what the target holds; may be called more than once."""
        ...
