"""Which operators ONNX Runtime has CUDA kernels for, from a table of one release of onnxruntime-gpu.

A kernel of opsets 6 to 21 takes a node that its graph's opset gives any of these versions. One without a last opset
takes only a node of exactly its first one: nobody has said yet that it fits what came later.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources

import onnx
from onnx import TensorProto, defs

from instantrt_engines.decompose_attention import Types, tensor_types

Constraints = dict[str, str]  # types by type constraint, separated by spaces


@dataclass(frozen=True)
class Kernel:
    """One registered kernel.

    Args:
        first: opset from which it is.
        last: opset to which it is; None if it is open.
        types: those that it takes, by type constraint of the operator's schema.
    """

    first: int
    last: int | None
    types: dict[str, frozenset[str]]

    def takes(self, version: int, types: dict[str, set[str]]) -> bool:
        """Whether a node of an operator that is of this version, with tensors of these types, runs with it."""
        if version != self.first and (self.last is None or not self.first <= version <= self.last):
            return False
        return all(types[name] <= allowed for name, allowed in self.types.items() if name in types)


@dataclass(frozen=True)
class KernelTable:
    """The kernels of one release.

    Args:
        version: of onnxruntime-gpu.
        kernels: by operator, with its domain if that is not ONNX's.
    """

    version: str
    kernels: dict[str, tuple[Kernel, ...]]

    def missing(self, model: onnx.ModelProto, types: Types) -> Iterator[str]:
        """The nodes of a graph that no kernel takes, as ``operator (version, types)``.

        Args:
            model: the graph.
            types: of its values as far as they are known; unknown ones are not looked at.
        """
        opsets = {opset.domain: opset.version for opset in model.opset_import}
        for node in model.graph.node:
            if node.op_type == "Constant":
                continue  # an initializer by the time that kernels are looked for
            version, asked = _demand(node, opsets[node.domain], types)
            name = f"{node.domain}.{node.op_type}".removeprefix(".")
            if not any(kernel.takes(version, asked) for kernel in self.kernels.get(name, ())):
                wanted = ", ".join(f"{c} {'/'.join(sorted(t))}" for c, t in sorted(asked.items()))
                yield f"{name} ({version}{', ' * bool(wanted)}{wanted})"


@cache
def kernel_table() -> KernelTable:
    """The table that comes with the package."""
    data = json.loads(resources.files(__package__).joinpath("kernels.json").read_text(encoding="utf-8"))
    kernels = {name: tuple(_kernel(*row) for row in rows) for name, rows in data["kernels"].items()}
    return KernelTable(data["version"], kernels)


def _kernel(first: int, last: int | None, types: Constraints) -> Kernel:
    return Kernel(first, last, {name: frozenset(text.split()) for name, text in types.items()})


def _demand(node: onnx.NodeProto, opset: int, types: Types) -> tuple[int, dict[str, set[str]]]:
    """The version of a node's operator and, by type constraint, the types of the node's tensors."""
    if node.domain:  # ONNX does not know the schema; the first input has the type T in all that are used here
        return 1, {"T": _names(node.input[0], types)}
    schema = defs.get_schema(node.op_type, opset, "")
    asked: dict[str, set[str]] = defaultdict(set)
    for values, formal in ((node.input, schema.inputs), (node.output, schema.outputs)):
        for index, value in enumerate(values):
            asked[formal[min(index, len(formal) - 1)].type_str] |= _names(value, types)
    return schema.since_version, {name: found for name, found in asked.items() if "(" not in name and found}


def _names(value: str, types: Types) -> set[str]:
    return {TensorProto.DataType.Name(types[value].elem_type).lower()} if value in types else set()


def types_of(*models: onnx.ModelProto) -> Types:
    """The types of all values of graphs that share names; what only one of them can infer is found in it."""
    found: dict[str, onnx.TypeProto.Tensor] = {}
    for model in models:
        found |= {name: kind for name, kind in tensor_types(model).items() if kind.elem_type}
    return found
