"""A prelude or finale network as a function from host arrays to host arrays, with buffers kept per shape."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt.contracts import NetworkContract, Precision
from instantrt.device import Buffer
from instantrt.engine import Target

Array = npt.NDArray[Any]
MAX_SHAPES = 8


class Network:
    """Calls one engine. Buffers are allocated and bound at the first call of a shape and reused afterwards.

    Args:
        target: makes the engine and owns the device.
        contract: the network's contract.
        precision: the bundle's network dtype.
    """

    def __init__(self, target: Target, contract: NetworkContract, precision: Precision) -> None:
        self._device = target.device
        self._contract = contract
        self._precision: Precision = precision
        self._engine = target.load(contract.name, {})
        self._buffers: OrderedDict[tuple[int, ...], dict[str, Buffer]] = OrderedDict()
        self._bound: tuple[int, ...] | None = None

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once. Inputs are cast to the contract's dtypes; outputs are fresh arrays."""
        symbols = self._symbols(inputs)
        buffers = self._bind(symbols)
        for spec in self._contract.inputs:
            array = np.asarray(inputs[spec.name], buffers[spec.name].dtype, order="C")
            self._device.upload(array, buffers[spec.name])
        self._engine.enqueue(self._device.stream)
        return {spec.name: self._device.download(buffers[spec.name]) for spec in self._contract.outputs}

    def close(self) -> None:
        """Release the engine; may be called more than once."""
        self._engine.close()
        self._buffers.clear()

    def _symbols(self, inputs: Mapping[str, Array]) -> dict[str, int]:
        symbols: dict[str, int] = {}
        for spec in self._contract.inputs:
            for dim, size in zip(spec.shape, inputs[spec.name].shape, strict=True):
                if isinstance(dim, str):
                    symbol, _, divisor = dim.partition("/")
                    symbols[symbol] = size * int(divisor or 1)
        return symbols

    def _bind(self, symbols: dict[str, int]) -> dict[str, Buffer]:
        key = tuple(symbols.values())
        buffers = self._buffers.pop(key, None) or self._allocate(symbols)
        self._buffers[key] = buffers
        if len(self._buffers) > MAX_SHAPES:
            self._buffers.popitem(last=False)
        if key != self._bound:
            for name, buffer in buffers.items():
                self._engine.bind(name, buffer)
            self._bound = key
        return buffers

    def _allocate(self, symbols: dict[str, int]) -> dict[str, Buffer]:
        specs = (*self._contract.inputs, *self._contract.outputs)
        return {s.name: self._device.allocate(s.resolve(symbols), s.numpy_dtype(self._precision)) for s in specs}
