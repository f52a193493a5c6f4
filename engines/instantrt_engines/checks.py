"""Checks that fail when a plan would build and be slow: fp32 islands in fp16 networks, attention that was not fused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from instantrt.contracts import Precision
from instantrt.errors import InstantRTError
from instantrt_engines.graph import ShapedGraph, Tensor

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
MATRIX_PRODUCTS = ("MatMul", "Gemm", "Attention")
PRODUCTS = (*MATRIX_PRODUCTS, "Conv", "ConvTranspose")

# Networks that stay in fp32 in an fp16 bundle, and why.
FP32_NETWORKS = {
    "face_detector": "small and run once; its thresholds were set in fp32",
    "face_encoder": "small and run once; identity is decided by its digits",
    "vae_decoder": "exported with --vae-precision fp32: its numbers may be too large for fp16",
}

# Operators that alone may form an fp32 island in an fp16 network, by the build option that asks for it.
ALLOWED_ISLANDS = {"fp32_attention": ("Attention",)}


class SlowPlanError(InstantRTError):
    """The plan would work and be needlessly slow."""

    code = "slow_plan"


@dataclass(frozen=True)
class Island:
    """fp32 arithmetic on a path from fp16 to fp16: its nodes in order, and how many there are of each operator."""

    nodes: tuple[str, ...]
    operators: dict[str, int]

    @property
    def first_node(self) -> str:
        """Where it starts."""
        return self.nodes[0]

    def __str__(self) -> str:
        parts = ", ".join(f"{count} {operator}" for operator, count in sorted(self.operators.items()))
        return f"{parts} from node {self.first_node} on"


def fp32_islands(graph: ShapedGraph) -> list[Island]:
    """The fp32 islands of a graph in its order.

    Arithmetic in fp32 at the edges of a graph - the sampler's latents, timesteps, pixels - is none: it does not lie
    between two fp16 parts.
    """
    values = graph.values
    entered: set[str] = set()  # fp32 tensors computed from fp16 ones
    for node in graph.graph.node:
        casts_in = node.op_type == "Cast" and _is(values, node.input, HALF) and node.input[0] not in graph.weights
        if _is(values, node.output, FLOAT) and (casts_in or entered & set(node.input)):
            entered |= set(node.output)
    leaving: set[str] = set()  # fp32 tensors that fp16 ones are computed from
    island_nodes = []
    for node in reversed(graph.graph.node):
        if node.op_type == "Cast" and _is(values, node.output, HALF):
            leaving |= set(node.input)
        elif leaving & set(node.output) and _is(values, node.output, FLOAT):
            leaving |= {name for name in node.input if _is(values, [name], FLOAT)}
            if node.op_type != "Cast" and entered & set(node.output):
                island_nodes.append(node)
    return _grouped(reversed(island_nodes))


def check_precision(network: str, graph: ShapedGraph, precision: Precision, options: Iterable[str] = ()) -> None:
    """Fail on fp32 islands beyond the allow-list, and on fp32 matrix products where there is no reason for them.

    Args:
        network: its name.
        graph: the graph that is built.
        precision: the bundle's network dtype.
        options: the build options that were asked for.

    Raises:
        SlowPlanError: names the operators and where they start.
    """
    if precision != "fp16":
        return
    operators = {operator for option in options for operator in ALLOWED_ISLANDS.get(option, ())}
    islands = fp32_islands(graph)
    allowed = {name for island in islands if set(island.operators) <= operators for name in island.nodes}
    wide = [name for name in fp32_products(graph, PRODUCTS) if name not in allowed]
    if wide and network not in FP32_NETWORKS:
        raise SlowPlanError(
            f"{network} has {len(wide)} fp32 matrix products in an fp16 bundle",
            found=", ".join(wide[:4]),
            hint="export the bundle again with `instantrt export --precision fp16`, or build with --allow-slow",
        )
    refused = [island for island in islands if island.first_node not in allowed]
    if refused:
        raise SlowPlanError(
            f"{network} leaves fp16 in {len(refused)} place{'s' * (len(refused) > 1)} and comes back",
            found="; ".join(str(island) for island in refused[:4]),
            hint="keep that arithmetic in fp16 in the export, or build with --allow-slow",
        )


def fp32_products(graph: ShapedGraph, operators: Iterable[str]) -> list[str]:
    """The names of the nodes of these operators that compute in fp32."""
    return [name_of(n) for n in graph.graph.node if n.op_type in operators and _is(graph.values, n.output, FLOAT)]


def name_of(node: onnx.NodeProto) -> str:
    """A node's name, or that of its output if it has none."""
    return node.name or node.output[0]


@dataclass(frozen=True)
class AttentionMemory:
    """What attention would need if it were not fused.

    Args:
        scores_bytes: the largest matrix of attention scores.
        other_bytes: the most memory that everything else needs at one time.
    """

    scores_bytes: int
    other_bytes: int

    @property
    def decidable(self) -> bool:
        """Whether activation memory tells if that matrix was materialised: it must dominate everything else."""
        return self.scores_bytes > self.other_bytes


def attention_memory(graph: ShapedGraph) -> AttentionMemory:
    """Look at every attention, written with a softmax or as one operator, at this graph's sizes."""
    scores = _score_tensors(graph)
    decomposed = max((graph.values[name].bytes for name in scores), default=0)
    hidden = max((_hidden_scores(node, graph) for node in graph.graph.node if node.op_type == "Attention"), default=0)
    return AttentionMemory(max(decomposed, hidden), _peak_bytes(graph, scores))


def check_attention(network: str, memory: AttentionMemory, activation_bytes: int) -> None:
    """Fail if the activation memory of a built plan is as large as attention needs that was not fused.

    Raises:
        SlowPlanError: gives both figures.
    """
    if memory.decidable and activation_bytes >= memory.scores_bytes:
        raise SlowPlanError(
            f"an attention of {network} was not fused: its score matrix is kept in memory",
            found=f"{activation_bytes / 1e6:.0f} MB of activations; the scores alone need "
            f"{memory.scores_bytes / 1e6:.0f} MB",
            hint="look for what stands between the softmax and its matrix products, or build with --allow-slow",
        )


def _score_tensors(graph: ShapedGraph) -> set[str]:
    """Outputs of softmaxes, and tensors of the same size on the way to and from them."""
    scores = {name for node in graph.graph.node if node.op_type == "Softmax" for name in (*node.input, *node.output)}
    sizes = {graph.values[name].shape for name in scores if name in graph.values}
    return scores | {name for name, tensor in graph.values.items() if tensor.shape in sizes and len(tensor.shape) > 2}


def _hidden_scores(node: onnx.NodeProto, graph: ShapedGraph) -> int:
    """Bytes of the scores inside an ``Attention`` of [N, tokens, heads * width] or [N, heads, tokens, width]."""
    query, key = (graph.values[name] for name in node.input[:2])
    heads = next((a.i for a in node.attribute if a.name == "q_num_heads"), 0) or query.shape[1] or 1
    rows, keys = query.shape[-2] or 1, key.shape[-2] or 1
    return (query.shape[0] or 1) * heads * rows * keys * query.element_bytes


def _peak_bytes(graph: ShapedGraph, without: Iterable[str]) -> int:
    """The most bytes of intermediate tensors alive at once when nodes run in order and none is fused."""
    nodes = graph.graph.node
    skipped = set(without) | set(graph.weights) | {value.name for value in graph.graph.input}
    last_use = {name: index for index, node in enumerate(nodes) for name in (*node.output, *node.input)}
    ending: dict[int, list[str]] = {}
    for name, index in last_use.items():
        ending.setdefault(index, []).append(name)
    alive = peak = 0
    size = {n: t.bytes for n, t in graph.values.items() if n not in skipped}
    for index, node in enumerate(nodes):
        alive += sum(size.get(name, 0) for name in node.output)
        peak = max(peak, alive)
        alive -= sum(size.get(name, 0) for name in ending.get(index, ()))
    return peak


def _grouped(nodes: Iterable[onnx.NodeProto]) -> list[Island]:
    """Nodes that feed each other form one island."""
    groups: list[tuple[set[str], list[onnx.NodeProto]]] = []
    for node in nodes:
        for tensors, members in groups:
            if tensors & set(node.input):
                tensors |= set(node.output)
                members.append(node)
                break
        else:
            groups.append((set(node.output), [node]))
    return [
        Island(tuple(name_of(n) for n in members), dict(Counter(n.op_type for n in members))) for _, members in groups
    ]


def _is(values: Mapping[str, Tensor], names: Iterable[str], element: int) -> bool:
    return all(name in values and values[name].element == element for name in names if name)
