"""One torch module and its contract to one checked ONNX file."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnxscript import opset23 as op
from torch import nn

from instantrt.atomic import output_errors
from instantrt.contracts import NetworkContract, Precision, TensorSpec
from instantrt_export.shapes import ExportShapes

OPSET = 23  # the first with Attention
EXTERNAL_DATA_BYTES = 500_000_000  # a protobuf holds 2 GiB, and is copied whole by each check long before that
INSIDE_BYTES = 1 << 15  # of a tensor; shape inference and folding of shape arithmetic do not see what is outside

# What torch's exporter says about every model with named axes, and about packages it does not need.
_EXPORTER_CHATTER = (r"# The axis name: .* will not be used", r"`isinstance\(treespec, LeafSpec\)` is deprecated")


class ContractMismatchError(Exception):
    """An exported graph does not have the contract's inputs and outputs: a bug in the export."""


def onnx_from_module(
    module: nn.Module, contract: NetworkContract, shapes: ExportShapes, precision: Precision, path: Path
) -> None:
    """Exports a module to ``path`` and checks the file.

    Args:
        module: in eval mode; ``forward`` takes the contract's inputs in order and gives its outputs in order.
        contract: names, dtypes and shapes of the graph.
        shapes: which axes stay symbolic. Their names in the graph are the contract's strings ("B", "H/8", ...).
        precision: what "net" means in the contract.
        path: the file to write; weights above half a GB go to ``path`` + ``.data`` beside it.
    """
    example = tuple(_zeros(spec, shapes.example(), precision) for spec in contract.inputs)
    bound = inspect.signature(module.forward).bind(*shapes.dynamic_shapes(contract))
    with quiet_export(), torch.no_grad():
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=[spec.name for spec in contract.inputs],
            output_names=[spec.name for spec in contract.outputs],
            dynamic_shapes=bound.arguments,
            verbose=False,
            custom_translation_table={torch.ops.aten.group_norm.default: _group_norm},
        )
    assert program is not None  # torch gives None only when it writes the file itself
    _declare_contract_shapes(program.model.graph, contract, shapes)
    save_checked(program.model, path, contract, shapes, precision)


def save_checked(
    model: ir.Model, path: Path, contract: NetworkContract, shapes: ExportShapes, precision: Precision
) -> None:
    """Writes a model and checks the file: ONNX's full check, strict shape inference, and the contract.

    Raises:
        ContractMismatchError: the graph's inputs or outputs are not the contract's.
        OutputError: it cannot be written.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        Path(f"{path}.data").unlink(missing_ok=True)  # of an earlier export
    weight_bytes = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    external_data = f"{path.name}.data" if weight_bytes > EXTERNAL_DATA_BYTES else None
    with output_errors(path):
        ir.save(model, path, external_data=external_data, size_threshold_bytes=INSIDE_BYTES)
    onnx.checker.check_model(path, full_check=True)
    written = onnx.load(path, load_external_data=False)
    onnx.shape_inference.infer_shapes(written, check_type=True, strict_mode=True, data_prop=True)
    check_contract(written, contract, shapes, precision)


def check_contract(
    model: onnx.ModelProto, contract: NetworkContract, shapes: ExportShapes, precision: Precision
) -> None:
    """Compares the graph's inputs and outputs with the contract: names in order, dtypes and axes.

    Raises:
        ContractMismatchError: they differ.
    """
    declared = [_describe(value) for value in (*model.graph.input, *model.graph.output)]
    wanted = [
        (spec.name, spec.numpy_dtype(precision), tuple(shapes.graph_dim(d) for d in spec.shape))
        for spec in (*contract.inputs, *contract.outputs)
    ]
    for actual, expected in zip(declared, wanted, strict=False):
        if actual != expected:
            raise ContractMismatchError(f"{contract.name}: the graph has {actual}, its contract {expected}")
    if len(declared) != len(wanted):
        raise ContractMismatchError(f"{contract.name}: {len(declared)} inputs and outputs instead of {len(wanted)}")


def _describe(value: onnx.ValueInfoProto) -> tuple[str, object, tuple[int | str, ...]]:
    tensor = value.type.tensor_type
    axes = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
    return value.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), axes


def _declare_contract_shapes(graph: ir.Graph, contract: NetworkContract, shapes: ExportShapes) -> None:
    """Names axes after the contract and forgets what the exporter noted about everything in between.

    Intermediate shapes carry the exporter's own axis names: they would survive when a builder or ONNX Runtime fixes
    axes by name, and keep the graph from becoming static. Its notes about the whole come in another order every time,
    and the same checkpoint shall give the same file.
    """
    graph.metadata_props.clear()
    for value, spec in zip((*graph.inputs, *graph.outputs), (*contract.inputs, *contract.outputs), strict=True):
        value.shape = ir.Shape([shapes.graph_dim(d) for d in spec.shape])
    kept = set(graph.outputs)
    for node in ir.traversal.RecursiveGraphIterator(graph):
        node.metadata_props.clear()
        node.doc_string = None
        for output in node.outputs:
            if output not in kept:
                output.shape = output.type = None


def _group_norm(
    x: ir.Value, num_groups: int, weight: ir.Value, bias: ir.Value, eps: float = 1e-5, cudnn_enabled: bool = True
) -> Any:
    """Group normalisation as instance normalisation of groups, for which ONNX Runtime's CPU provider has a kernel."""
    del cudnn_enabled
    assert weight.dtype is not None
    ones, zeros = (op.Constant(value=ir.tensor(make(num_groups, weight.dtype.numpy()))) for make in (np.ones, np.zeros))
    groups = op.Reshape(x, op.Constant(value_ints=[0, num_groups, -1]))
    normal = op.InstanceNormalization(groups, ones, zeros, epsilon=eps)
    by_channel = op.Constant(value_ints=[1, 2])
    scaled = op.Mul(op.Reshape(normal, op.Shape(x)), op.Unsqueeze(weight, by_channel))
    return op.Add(scaled, op.Unsqueeze(bias, by_channel))


def _zeros(spec: TensorSpec, symbols: dict[str, int], precision: Precision) -> torch.Tensor:
    return torch.from_numpy(np.zeros(spec.resolve(symbols), spec.numpy_dtype(precision)))


@contextmanager
def quiet_export() -> Iterator[None]:
    """Without what torch's exporter says about every model."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in _EXPORTER_CHATTER:
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        logger.setLevel(level)
