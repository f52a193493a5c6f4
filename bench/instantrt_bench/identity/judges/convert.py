"""Converts ``faceres`` of the npm package ``@vladmandic/human`` to the independent judge's ONNX file. Run once by hand.

``npm pack @vladmandic/human@3.3.6``, unpack, then
``python -m instantrt_bench.identity.judges.convert PACKAGE_DIR OUT`` writes faceres.onnx into the folder OUT.

The package holds the network as a TensorFlow.js graph: JSON nodes, and weights in one binary file. Nodes are translated
one by one; only those that the descriptor needs are taken, which leaves out the heads for age and sex.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

OPSET = 18
NETWORK = "faceres"
DESCRIPTOR = "global_pooling/Mean"
PX = 224
WIDTH = 1024

Node = Mapping[str, Any]
Weights = Mapping[str, npt.NDArray[Any]]
PLAIN_OPS = {"Add": "Add", "Mul": "Mul", "Relu": "Relu", "Minimum": "Min", "Maximum": "Max"}


def convert(package: Path, outputs: Mapping[str, str] | None = None) -> onnx.ModelProto:
    """The network of the unpacked npm package: u8 RGB ``faces`` [n, 224, 224, 3] to f32 ``embedding`` [n, 1024].

    Weights keep the package's float16 and are cast in the graph.

    Args:
        package: the unpacked package.
        outputs: ONNX output names by graph node, instead of the descriptor alone.

    Raises:
        ValueError: the graph holds something that this translation does not know.
    """
    outputs = outputs or {DESCRIPTOR: "embedding"}
    spec = json.loads((package / "models" / f"{NETWORK}.json").read_text(encoding="utf-8"))
    weights = _weights(spec, (package / "models" / f"{NETWORK}.bin").read_bytes())
    graph = {node["name"]: node for node in spec["modelTopology"]["node"]}
    needed = _needed(graph, list(outputs))
    nodes = [*_pixels_in(next(n["name"] for n in needed if n["op"] == "Placeholder"))]
    initializers: dict[str, TensorProto] = {}
    for node in needed:
        if node["op"] not in ("Placeholder", "Const"):
            nodes += _translated(node, weights, initializers)
    nodes += [helper.make_node("Identity", [name], [output]) for name, output in outputs.items()]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            NETWORK,
            [helper.make_tensor_value_info("faces", TensorProto.UINT8, ["n", PX, PX, 3])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs.values()],
            list(initializers.values()),
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=10,
    )
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    del inferred.graph.value_info[:]
    onnx.checker.check_model(inferred, full_check=True)
    return inferred


def _weights(spec: Mapping[str, Any], data: bytes) -> dict[str, npt.NDArray[Any]]:
    """The stored weights by node name, float16 or whole numbers."""
    tensors: dict[str, npt.NDArray[Any]] = {}
    offset = 0
    for group in spec["weightsManifest"]:
        for entry in group["weights"]:
            dtype = np.dtype(entry.get("quantization", entry)["dtype"])
            if dtype not in (np.float16, np.float32, np.int32):
                raise ValueError(f"{entry['name']} is stored as {dtype}")
            count = prod(entry["shape"])
            tensors[entry["name"]] = np.frombuffer(data, dtype, count, offset).reshape(entry["shape"])
            offset += count * dtype.itemsize
    if offset != len(data):
        raise ValueError(f"the manifest describes {offset} bytes, the file has {len(data)}")
    return tensors


def _needed(graph: Mapping[str, Node], outputs: list[str]) -> list[Node]:
    """What the outputs depend on, every node after its inputs."""
    ordered: dict[str, Node] = {}

    def visit(name: str) -> None:
        if name not in ordered:
            for source in graph[name].get("input", []):
                visit(source)
            ordered[name] = graph[name]

    for name in outputs:
        visit(name)
    return list(ordered.values())


def _pixels_in(name: str) -> Iterator[NodeProto]:
    """u8 [n, H, W, 3] to f32 [n, 3, H, W], 0-255: what the graph calls ``name``."""
    yield helper.make_node("Cast", ["faces"], ["pixels"], to=TensorProto.FLOAT)
    yield helper.make_node("Transpose", ["pixels"], [name], perm=[0, 3, 1, 2])


def _translated(node: Node, weights: Weights, initializers: dict[str, TensorProto]) -> Iterator[NodeProto]:
    """One node of the TensorFlow.js graph. Its activations are NHWC, these are NCHW."""
    op, name, inputs = node["op"], node["name"], list(node["input"])

    def constant(key: str, arrange: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> str:
        if f"{key}:f32" not in initializers:
            initializers[f"{key}:f32"] = numpy_helper.from_array(np.ascontiguousarray(arrange(weights[key])), key)
            casts.append(helper.make_node("Cast", [key], [f"{key}:f32"], to=TensorProto.FLOAT))
        return f"{key}:f32"

    casts: list[NodeProto] = []
    if op in ("Conv2D", "DepthwiseConv2dNative"):
        filters = constant(inputs[1], _conv_filters if op == "Conv2D" else _depthwise_filters)
        groups = 1 if op == "Conv2D" else weights[inputs[1]].shape[2]
        made = helper.make_node("Conv", [inputs[0], filters], [name], group=groups, **_convolution(node))
    elif op == "Mean":
        if sorted(weights[inputs[1]].tolist()) != [1, 2]:
            raise ValueError(f"{name} takes a mean over {weights[inputs[1]].tolist()}, not over the picture")
        axes = f"{name}/axes"
        initializers[axes] = numpy_helper.from_array(np.array([2, 3], np.int64), axes)
        made = helper.make_node("ReduceMean", [inputs[0], axes], [name], keepdims=0)
    elif op in PLAIN_OPS:
        sources = [constant(key, _channels) if key in weights else key for key in inputs]
        made = helper.make_node(PLAIN_OPS[op], sources, [name])
    else:
        raise ValueError(f"{name} is a {op}, which this translation does not know")
    yield from casts
    yield made


def _convolution(node: Node) -> dict[str, Any]:
    attributes = node["attr"]
    _, *strides, _ = (int(i) for i in attributes["strides"]["list"]["i"])
    padding = base64.b64decode(attributes["padding"]["s"]).decode()
    return {"strides": strides, "auto_pad": {"SAME": "SAME_UPPER", "VALID": "VALID"}[padding]}


def _conv_filters(filters: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return filters.transpose(3, 2, 0, 1)  # [h, w, in, out]


def _depthwise_filters(filters: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return filters.transpose(2, 3, 0, 1)  # [h, w, channels, 1]


def _channels(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return values.reshape(-1, 1, 1) if values.ndim else values


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="the unpacked npm package")
    parser.add_argument("out", type=Path, help="folder for the ONNX file")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    onnx.save(convert(arguments.package), arguments.out / f"{NETWORK}.onnx")


if __name__ == "__main__":
    main()
