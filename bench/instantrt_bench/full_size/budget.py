"""`python -m instantrt_bench.full_size.budget`: what one guided step costs a GPU at least, counted and not measured.

Operations and weights are counted on SDXL's own modules without their weights; a device's peak figures are its
vendor's. What comes out is a floor: no program that computes these networks in fp16 can be faster on that device.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from instantrt.contracts import NetworkContract, network_contracts
from instantrt_bench.full_size.checkpoint import random_checkpoint
from instantrt_bench.full_size.scales import SDXL, Scale
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.networks.identitynet import IdentityNetNetwork
from instantrt_export.networks.unet import UNetNetwork
from instantrt_export.networks.vae import VAEDecoderNetwork

DTYPES = {"net": torch.float16, "float32": torch.float32, "int32": torch.int32, "uint8": torch.uint8}
LAYERS = (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Peak:
    """A device's peak figures as its vendor publishes them: operations and bytes per second."""

    name: str
    fp16_flops: float
    bytes: float


# NVIDIA H100 SXM data sheet: 1,979 TFLOP/s in fp16 with sparsity, half of that without; 3.35 TB/s.
H100 = Peak("H100 SXM", 989.4e12, 3.35e12)


@dataclass(frozen=True)
class Count:
    """One call of one network, in fp16.

    Args:
        attention_flops: of scores and weighted sums.
        other_flops: of convolutions and all other products; a multiply-add counts as two.
        weight_bytes: read once.
        edge_bytes: of inputs and outputs, each moved once. Tables of which a call gathers one row count as that row.
        layer_bytes: what convolutions, linear layers and norms read and write of feature maps, each as one kernel with
            all that lies between them, and nothing stays in a cache.
    """

    attention_flops: int
    other_flops: int
    weight_bytes: int
    edge_bytes: int
    layer_bytes: int

    @property
    def flops(self) -> int:
        """All of them."""
        return self.attention_flops + self.other_flops

    def floor_ms(self, peak: Peak) -> float:
        """At peak speed, computing and moving at the same time."""
        return 1e3 * max(self.flops / peak.fp16_flops, (self.weight_bytes + self.edge_bytes) / peak.bytes)


def count(module: nn.Module, contract: NetworkContract, symbols: Mapping[str, int]) -> Count:
    """Run a module on the meta device and count."""
    inputs = [torch.empty(spec.resolve(symbols), dtype=DTYPES[spec.dtype], device="meta") for spec in contract.inputs]
    attention = torch.ops.onnx.Attention
    moved = [0]

    def look(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        moved[0] += sum(t.numel() * t.element_size() for t in (*inputs, output))

    for layer in module.modules():
        if isinstance(layer, LAYERS):
            layer.register_forward_hook(look)
    counter: Any = FlopCounterMode(display=False, custom_mapping={attention: _attention_flops})
    with counter, torch.no_grad():
        module(*inputs)
    counts = counter.get_flop_counts()["Global"]
    of_attention = sum(flops for operator, flops in counts.items() if operator is attention)
    rows = {"time_embeddings": 1, "noise": 1, "step_table": 1}
    edges = 0
    for spec in (*contract.inputs, *contract.outputs):
        shape = spec.resolve(symbols)
        if spec.name in rows:
            shape = (shape[0], 1, *shape[2:])
        edges += torch.Size(shape).numel() * DTYPES[spec.dtype].itemsize
    weights = 2 * sum(parameter.numel() for parameter in module.parameters())
    return Count(of_attention, sum(counts.values()) - of_attention, weights, edges, moved[0])


def counts(scale: Scale) -> dict[str, Count]:
    """The networks of the loop and the decoder at the scale's picture size, one slot, guided."""
    checkpoint = random_checkpoint(scale, None, 0)  # without face networks, which are not counted
    contracts = network_contracts(checkpoint.dims)
    symbols = {"B": 1, "G": 2, "H": scale.picture_px, "W": scale.picture_px}
    modules: dict[str, Callable[[], nn.Module]] = {
        "identitynet": lambda: IdentityNetNetwork(_skeleton(checkpoint, "identitynet"), checkpoint.dims),
        "unet": lambda: UNetNetwork(_skeleton(checkpoint, "unet"), checkpoint.dims),
        "vae_decoder": lambda: VAEDecoderNetwork(_skeleton(checkpoint, "vae")).to("meta"),
    }
    return {name: count(make().eval(), contracts[name], symbols) for name, make in modules.items()}


def _skeleton(checkpoint: Checkpoint, name: str) -> Any:
    return deepcopy(checkpoint.components[name].skeleton).half()


def _attention_flops(query: Any, key: Any, *_others: Any, **_options: Any) -> int:
    """Two products of [N, tokens, width] with [N, keys, width], whatever the number of heads."""
    (rows, tokens, width), keys = query[:3], key[1]
    return 2 * 2 * int(rows) * int(tokens) * int(keys) * int(width)


def table(found: Mapping[str, Count], peak: Peak) -> str:
    """Markdown."""
    step = [found["identitynet"], found["unet"]]
    rows: dict[str, list[Count]] = {"identitynet": step[:1], "unet": step[1:], "one guided step": step}
    rows["vae_decoder"] = [found["vae_decoder"]]
    lines = [
        f"| 1024x1024, guided | TFLOP | of which attention | weights GB | inputs, outputs GB | layers GB "
        f"| floor ms, {peak.name} | layers ms |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, parts in rows.items():
        flops, attention = sum(p.flops for p in parts), sum(p.attention_flops for p in parts)
        weights, edges = sum(p.weight_bytes for p in parts), sum(p.edge_bytes for p in parts)
        layers = sum(p.layer_bytes for p in parts)
        floor = sum(p.floor_ms(peak) for p in parts)
        lines.append(
            f"| {name} | {flops / 1e12:.2f} | {attention / 1e12:.2f} | {weights / 1e9:.2f} | {edges / 1e9:.3f} "
            f"| {layers / 1e9:.1f} | {floor:.1f} | {1e3 * layers / peak.bytes:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Count and print."""
    sys.stdout.write(table(counts(SDXL), H100))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
