"""A network as a function of host arrays or device buffers, with its own buffers kept per shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt.cache import BoundedCache
from instantrt.contracts import NetworkContract, Precision, TensorSpec, symbols_of
from instantrt.device import Buffer
from instantrt.engine import Engine, Target
from instantrt.residency import Loading

Array = npt.NDArray[Any]
MAX_SHAPES = 8


class Network:
    """Calls one engine. Buffers are allocated at the first call of a shape and reused afterwards.

    Args:
        target: makes the engine and owns the device.
        contract: the network's contract.
        precision: the bundle's network dtype.
        on_demand: what surrounds loading the engine when it is first needed, and again after :meth:`unload`; None
            loads it now and for good.
    """

    def __init__(
        self, target: Target, contract: NetworkContract, precision: Precision, on_demand: Loading | None = None
    ) -> None:
        self._target = target
        self._device = target.device
        self._contract = contract
        self._precision: Precision = precision
        self._on_demand = on_demand
        self._engine: Engine | None = target.load(contract.name, {}) if on_demand is None else None
        self._buffers: BoundedCache[tuple[int, ...], dict[str, Buffer]] = BoundedCache(MAX_SHAPES, _close)

    def __call__(self, inputs: Mapping[str, Array | Buffer]) -> dict[str, Array]:
        """:meth:`run`, its outputs downloaded as fresh arrays."""
        outputs = self.run(inputs)
        return dict(zip(outputs, self._device.download_all(list(outputs.values())), strict=True))

    def run(self, inputs: Mapping[str, Array | Buffer]) -> dict[str, Buffer]:
        """Put one execution on the stream.

        Arrays are cast to the contract's dtypes and uploaded; buffers are read where they are.
        The outputs stay on the device and are valid until the next call.
        """
        engine = self._loaded()
        symbols = symbols_of(self._contract, {name: value.shape for name, value in inputs.items()})
        buffers = self._buffers.get(tuple(symbols.values()), dict)
        for spec in self._contract.inputs:
            value = inputs[spec.name]
            if isinstance(value, np.ndarray):
                buffer = self._buffer(buffers, spec, symbols)
                self._device.upload(np.asarray(value, buffer.dtype, order="C"), buffer)
            else:
                buffer = value
            engine.bind(spec.name, buffer)
        outputs = {spec.name: self._buffer(buffers, spec, symbols) for spec in self._contract.outputs}
        for name, buffer in outputs.items():
            engine.bind(name, buffer)
        engine.enqueue(self._device.stream)
        return outputs

    def unload(self) -> None:
        """Release the engine until it is needed again; outputs stay where they are. Only for networks on demand."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    def close(self) -> None:
        """Release engine and buffers; may be called more than once."""
        if self._engine is not None:
            self._engine.close()
        self._buffers.clear()

    def _loaded(self) -> Engine:
        if self._engine is None:
            if self._on_demand is None:
                raise RuntimeError(f"{self._contract.name} was unloaded for good")
            with self._on_demand():
                self._engine = self._target.load(self._contract.name, {})
        return self._engine

    def _buffer(self, buffers: dict[str, Buffer], spec: TensorSpec, symbols: dict[str, int]) -> Buffer:
        if spec.name not in buffers:
            buffers[spec.name] = self._device.allocate(spec.resolve(symbols), spec.numpy_dtype(self._precision))
        return buffers[spec.name]


def _close(buffers: dict[str, Buffer]) -> None:
    for buffer in buffers.values():
        buffer.close()
