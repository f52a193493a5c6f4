"""`python -m instantrt_bench.full_size.blocks`: single blocks of SDXL's UNet written in different ways, as built.

What TensorRT-RTX's builder itself reports of each: layers that it parsed, layers of the engine, those of them that only
change a layout, and activation memory. It says nothing of time, which only a GPU can.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from instantrt_engines.build_support import BUILD_SUPPORT, network_flags
from instantrt_engines.log import BuildLog
from instantrt_engines.tensorrt_api import TensorRT

CHANNELS, SIDE, GROUPS, GUIDANCE_BATCH = 320, 128, 32, 2  # the widest feature maps of the UNet at 1024x1024
TOKENS, WIDTH, HEADS, LAYERS, TEXT = 1024, 1280, 20, 10, 77  # one of its deepest transformers
MAPS = (GUIDANCE_BATCH, CHANNELS, SIDE, SIDE)
LAST = (GUIDANCE_BATCH, SIDE, SIDE, CHANNELS)
FIVE = (GUIDANCE_BATCH, 1, CHANNELS, SIDE, SIDE)
OPSET = 23

Configure = Callable[[TensorRT, Any, Any], None]  # module, network, builder configuration


@dataclass(frozen=True)
class Variant:
    """One way to write a block, or to build it."""

    block: str
    name: str
    model: Callable[[], onnx.ModelProto]
    configure: Configure = lambda _api, _network, _config: None


@dataclass(frozen=True)
class Report:
    """What the builder said; sizes in bytes."""

    parsed: int
    layers: int
    reformats: int
    activation_bytes: int
    plan_bytes: int


class LayerLog(BuildLog):
    """Keeps the list of the engine's layers, which the builder prints in its verbose log."""

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[str] = []

    def add(self, severity: str, message: str) -> None:
        """Take one message of TensorRT's."""
        super().add(severity, message)
        if message.startswith("Engine Layer Information:"):
            self.layers = [line for line in message.splitlines() if line.startswith("Layer(")]


def build(api: TensorRT, variant: Variant) -> Report:
    """Build one variant."""
    log = LayerLog()
    with log.listening(api.module, verbose=True) as logger:
        builder = api.Builder(logger)
        network = builder.create_network(network_flags(api))
        parser = api.OnnxParser(network, logger)
        if not parser.parse(variant.model().SerializeToString()):
            raise RuntimeError(f"{variant.name}: {parser.get_error(0).desc()}")
        config = builder.create_builder_config()
        config.set_flag(getattr(api.BuilderFlag, "REQUIRE_USER_ALLOCATION"))  # noqa: B009 - only this flavour has it
        variant.configure(api, network, config)
        parsed = network.num_layers
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError(f"{variant.name}: {'; '.join(log.errors)}")
    reformats = sum("eformat" in layer.partition(",")[0] for layer in log.layers)
    return Report(parsed, len(log.layers), reformats, max(log.activation_bytes), plan.nbytes)


# ---- blocks --------------------------------------------------------------------------------------------------------


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, ...]],
    output: tuple[int, ...],
    weights: Mapping[str, Any],
) -> onnx.ModelProto:
    """A graph in fp16 whose last node gives ``y``."""
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, shape) for name, shape in inputs.items()]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT16, output)
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph(list(nodes), "block", infos, [result], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def random(*shape: int) -> Any:
    """Seeded weights, all different: equal ones would be merged."""
    rng = np.random.default_rng(shape)
    return (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float16)


def _kernels() -> dict[str, Any]:
    """Of two convolutions."""
    return {"w1": random(CHANNELS, CHANNELS, 3, 3), "w2": random(CHANNELS, CHANNELS, 3, 3) * np.float16(2)}


def _convolution(source: str, name: str, out: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, name], [out], pads=[1, 1, 1, 1])


def normalised(*, as_group: bool) -> onnx.ModelProto:
    """Convolution, group norm, SiLU, convolution; the norm as one operator or as a reshaped InstanceNormalization."""
    affine = {"gamma": 1 + random(CHANNELS) / 10, "beta": random(CHANNELS)}
    if as_group:
        inputs = ["a", "gamma", "beta"]
        norm = [helper.make_node("GroupNormalization", inputs, ["n"], num_groups=GROUPS, epsilon=1e-5)]
        extra: dict[str, Any] = affine
    else:
        norm = [
            helper.make_node("Reshape", ["a", "groups"], ["g"]),
            helper.make_node("InstanceNormalization", ["g", "ones", "zeros"], ["i"], epsilon=1e-5),
            helper.make_node("Reshape", ["i", "maps"], ["r"]),
            helper.make_node("Mul", ["r", "gamma"], ["m"]),
            helper.make_node("Add", ["m", "beta"], ["n"]),
        ]
        extra = {name: value.reshape(-1, 1, 1) for name, value in affine.items()} | {
            "groups": np.array([GUIDANCE_BATCH, GROUPS, -1]),
            "maps": np.array(MAPS),
            "ones": np.ones(GROUPS, np.float16),
            "zeros": np.zeros(GROUPS, np.float16),
        }
    activation = [helper.make_node("Sigmoid", ["n"], ["s"]), helper.make_node("Mul", ["n", "s"], ["b"])]
    nodes = [_convolution("x", "w1", "a"), *norm, *activation, _convolution("b", "w2", "y")]
    kernels = _kernels()
    return model(nodes, {"x": MAPS}, MAPS, extra | kernels)


def attending(*, contiguous: bool) -> onnx.ModelProto:
    """Ten cross-attentions whose keys and values are parts of one input, along its last axis or along its first."""
    tokens = (GUIDANCE_BATCH, TOKENS, WIDTH)
    if contiguous:
        shape: tuple[int, ...] = (2 * LAYERS, GUIDANCE_BATCH, TEXT, WIDTH)
        parts = [helper.make_node("Gather", ["kv", f"i{i}"], [f"p{i}"], axis=0) for i in range(2 * LAYERS)]
        weights: dict[str, Any] = {f"i{i}": np.array(i) for i in range(2 * LAYERS)}
    else:
        shape = (GUIDANCE_BATCH, TEXT, 2 * LAYERS * WIDTH)
        names = [f"p{i}" for i in range(2 * LAYERS)]
        parts = [helper.make_node("Split", ["kv"], names, axis=-1, num_outputs=2 * LAYERS)]
        weights = {}
    nodes, last = list(parts), "x"
    attend = partial(helper.make_node, "Attention", q_num_heads=HEADS, kv_num_heads=HEADS)
    for i in range(LAYERS):
        out = "y" if i == LAYERS - 1 else f"x{i}"
        nodes += [
            helper.make_node("MatMul", [last, f"q{i}"], [f"query{i}"]),
            attend([f"query{i}", f"p{2 * i}", f"p{2 * i + 1}"], [f"o{i}"]),
            helper.make_node("Add", [last, f"o{i}"], [out]),
        ]
        weights[f"q{i}"] = random(WIDTH, WIDTH) * np.float16(1 + i / 100)
        last = out
    return model(nodes, {"x": tokens, "kv": shape}, tokens, weights)


def with_residual(shape: tuple[int, ...] = MAPS, *, as_maps: Sequence[onnx.NodeProto] = ()) -> onnx.ModelProto:
    """What takes one of IdentityNet's residuals: convolution, addition, convolution.

    Args:
        shape: of the residual.
        as_maps: nodes that make ``maps`` of shape :data:`MAPS` of it.
    """
    nodes = [
        *as_maps,
        _convolution("x", "w1", "a"),
        helper.make_node("Add", ["a", "maps" if as_maps else "residual"], ["b"]),
        _convolution("b", "w2", "y"),
    ]
    kernels = _kernels()
    return model(nodes, {"x": MAPS, "residual": shape}, MAPS, kernels | {"shape": np.array(MAPS)})


def giving_residual(*, transposed: bool) -> onnx.ModelProto:
    """What gives one: two convolutions, times a mask."""
    nodes = [
        _convolution("x", "w1", "a"),
        _convolution("a", "w2", "b"),
        helper.make_node("Mul", ["b", "mask"], ["maps" if transposed else "y"]),
    ]
    if transposed:
        nodes.append(helper.make_node("Transpose", ["maps"], ["y"], perm=[0, 2, 3, 1]))
    kernels = _kernels()
    mask = (GUIDANCE_BATCH, 1, SIDE, SIDE)
    return model(nodes, {"x": MAPS, "mask": mask}, LAST if transposed else MAPS, kernels)


def channels_last(api: TensorRT, network: Any, _config: Any) -> None:
    """The residual in TensorRT's channels-last format, eight channels wide."""
    network.get_input(1).allowed_formats = 1 << int(api.module.TensorFormat.HWC8)


def level(number: int) -> Configure:
    """A builder optimisation level."""

    def configure(_api: TensorRT, _network: Any, config: Any) -> None:
        config.builder_optimization_level = number

    return configure


def tiling(name: str) -> Configure:
    """A tiling optimisation level."""

    def configure(api: TensorRT, _network: Any, config: Any) -> None:
        config.tiling_optimization_level = getattr(api.module.TilingOptimizationLevel, name)

    return configure


VARIANTS = (
    Variant("group norm", "reshaped InstanceNormalization (as exported)", lambda: normalised(as_group=False)),
    Variant("group norm", "GroupNormalization, opset 21", lambda: normalised(as_group=True)),
    Variant("keys and values", "side by side along the last axis (as exported)", lambda: attending(contiguous=False)),
    Variant("keys and values", "layer by layer, contiguous", lambda: attending(contiguous=True)),
    Variant("taking a residual", "linear (as exported)", with_residual),
    Variant("taking a residual", "TensorRT's channels-last format, 8 wide", with_residual, channels_last),
    Variant(
        "taking a residual",
        "channels as the last axis of the graph's input",
        lambda: with_residual(LAST, as_maps=[helper.make_node("Transpose", ["residual"], ["maps"], perm=[0, 3, 1, 2])]),
    ),
    Variant(
        "taking a residual",
        "five axes as in the contract, linear",
        lambda: with_residual(FIVE, as_maps=[helper.make_node("Reshape", ["residual", "shape"], ["maps"])]),
    ),
    Variant(
        "taking a residual",
        "five axes as in the contract, TensorRT's format",
        lambda: with_residual(FIVE, as_maps=[helper.make_node("Reshape", ["residual", "shape"], ["maps"])]),
        channels_last,
    ),
    Variant("giving a residual", "linear (as exported)", lambda: giving_residual(transposed=False)),
    Variant(
        "giving a residual", "channels as the last axis of the graph's output", lambda: giving_residual(transposed=True)
    ),
    *(Variant("optimisation level", str(n), lambda: normalised(as_group=False), level(n)) for n in (0, 3, 5)),
    *(
        Variant("tiling level", name, lambda: normalised(as_group=False), tiling(name))
        for name in ("NONE", "FAST", "FULL")
    ),
)


def main() -> int:
    """Build all and print a Markdown table."""
    api = BUILD_SUPPORT["tensorrt-rtx"].load()
    rows = ["| block | variant | parsed layers | engine layers | reformat layers | activations MB | plan MB |"]
    rows.append("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for variant in VARIANTS:
        try:
            found = build(api, variant)
        except RuntimeError as error:
            rows.append(f"| {variant.block} | {variant.name} | {error} | | | | |")
            continue
        rows.append(
            f"| {variant.block} | {variant.name} | {found.parsed} | {found.layers} | {found.reformats} | "
            f"{found.activation_bytes / 1e6:.2f} | {found.plan_bytes / 1e6:.2f} |"
        )
    sys.stdout.write("\n".join(rows) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
