"""The small commands beside `make full-size`: counting a step's cost, and building single blocks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from instantrt.contracts import NetworkContract, TensorSpec
from instantrt_bench.full_size import blocks, budget, vae
from instantrt_bench.full_size.scales import SMALL

TOKENS, WIDTH = 6, 16


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(WIDTH, WIDTH, bias=False, dtype=torch.float16, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        return torch.onnx.ops.attention(self.query(x), x, x, q_num_heads=2, kv_num_heads=2)[0]


def test_operations_and_bytes_are_counted_exactly() -> None:
    spec = TensorSpec("x", "net", ("G", TOKENS, WIDTH))
    contract = NetworkContract("attending", "denoise", (spec,), (TensorSpec("y", "net", spec.shape),))
    found = budget.count(Attending(), contract, {"G": 3})
    values = 3 * TOKENS * WIDTH
    assert found.other_flops == 2 * values * WIDTH
    assert found.attention_flops == 2 * 2 * values * TOKENS
    assert found.weight_bytes == 2 * WIDTH * WIDTH
    assert found.edge_bytes == found.layer_bytes == 2 * 2 * values


def test_the_floor_is_the_slower_of_computing_and_moving() -> None:
    peak = budget.Peak("imagined", fp16_flops=1e6, bytes=1e6)
    assert budget.Count(500, 500, 10, 10, 0).floor_ms(peak) == pytest.approx(1.0)
    assert budget.Count(1, 1, 1000, 1000, 0).floor_ms(peak) == pytest.approx(2.0)


def test_a_whole_step_is_counted_without_weights() -> None:
    found = budget.counts(SMALL)
    assert set(found) == {"identitynet", "unet", "vae_decoder"}
    assert all(min(vars(count).values()) > 0 for count in found.values())
    assert found["unet"].flops > found["identitynet"].flops
    assert budget.table(found, budget.H100).count("\n") == 6


def test_a_residual_in_channels_last_format_spares_a_copy_of_it() -> None:
    pytest.importorskip("onnxruntime_ep_nv_tensorrt_rtx", reason="needs the rtx extra")
    api = blocks.BUILD_SUPPORT["tensorrt-rtx"].load()
    linear, channels_last = (
        blocks.build(api, next(variant for variant in blocks.VARIANTS if variant.name == name))
        for name in ("linear (as exported)", "TensorRT's channels-last format, 8 wide")
    )
    residual_bytes = 2 * blocks.GUIDANCE_BATCH * blocks.CHANNELS * blocks.SIDE**2
    assert linear.activation_bytes - channels_last.activation_bytes == residual_bytes


@pytest.mark.slow
def test_the_decoder_is_built_in_all_three_ways(tmp_path: Path) -> None:
    assert vae.main(["--out", str(tmp_path), "--scale", "small"]) == 0
    safe, scaled, fp32 = json.loads((tmp_path / "vae.json").read_text()).values()
    assert safe["activations MB"] == scaled["activations MB"] < fp32["activations MB"]
    assert safe["weights MB"] < fp32["weights MB"]
