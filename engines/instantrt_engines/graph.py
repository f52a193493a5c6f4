"""A network's ONNX graph without its weights: sizes filled in, types and shapes inferred."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path

import onnx
from onnx import helper

from instantrt.contracts import NetworkContract, resolve_dim
from instantrt_engines.fold import fold_shapes


def load_graph(path: Path) -> onnx.ModelProto:
    """The model, with weights that lie in an external file left there."""
    return onnx.load(path, load_external_data=False)


def with_fixed_axes(model: onnx.ModelProto, contract: NetworkContract, symbols: Mapping[str, int]) -> onnx.ModelProto:
    """A copy in which the input and output axes of these symbols are numbers.

    A static axis lets TensorRT fold everything that is computed from it. Axes that are numbers already stay.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    specs = {spec.name: spec for spec in (*contract.inputs, *contract.outputs)}
    for value in (*fixed.graph.input, *fixed.graph.output):
        axes = zip(value.type.tensor_type.shape.dim, specs[value.name].shape, strict=True)
        for axis, dim in axes:
            if isinstance(dim, str) and dim.partition("/")[0] in symbols:
                axis.dim_value = resolve_dim(dim, symbols)
    return fixed


@dataclass(frozen=True)
class Tensor:
    """Type and shape of one value of a graph; None for an axis that could not be inferred."""

    element: int
    shape: tuple[int | None, ...]

    @property
    def elements(self) -> int:
        """Number of elements; an unknown axis counts as 1."""
        return prod(axis or 1 for axis in self.shape)

    @property
    def element_bytes(self) -> int:
        """Size of one element in bytes."""
        return int(helper.tensor_dtype_to_np_dtype(self.element).itemsize)

    @property
    def bytes(self) -> int:
        """Size in bytes; an unknown axis counts as 1."""
        return self.elements * self.element_bytes


@dataclass(frozen=True)
class ShapedGraph:
    """A graph all of whose axes are numbers. Use :meth:`at`."""

    graph: onnx.GraphProto
    values: Mapping[str, Tensor]

    @classmethod
    def at(cls, model: onnx.ModelProto, contract: NetworkContract, symbols: Mapping[str, int]) -> ShapedGraph:
        """Infer every type and shape with the contract's symbols set to these numbers."""
        inferred = fold_shapes(with_fixed_axes(model, contract, symbols)).graph
        values = {t.name: Tensor(t.data_type, tuple(t.dims)) for t in inferred.initializer}
        for value in (*inferred.input, *inferred.output, *inferred.value_info):
            values.setdefault(value.name, _tensor(value))
        return cls(inferred, values)

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The initializers by name."""
        return {t.name: self.values[t.name] for t in self.graph.initializer}

    def unknown(self) -> list[str]:
        """Outputs of nodes whose type or shape could not be inferred."""
        outputs = (name for node in self.graph.node for name in node.output if name)
        return [name for name in outputs if name not in self.values or None in self.values[name].shape]

    def tensors(self, names: Iterator[str]) -> Iterator[Tensor]:
        """The known tensors among these names."""
        return (self.values[name] for name in names if name in self.values)


def _tensor(value: onnx.ValueInfoProto) -> Tensor:
    kind = value.type.tensor_type
    axes = (axis.dim_value if axis.HasField("dim_value") else None for axis in kind.shape.dim)
    return Tensor(kind.elem_type, tuple(axes))
