"""A decoder that overflows in fp16 decodes in fp16 all the same once its residual stream is scaled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderKL
from onnx import TensorProto
from torch import Tensor, nn

from doubles.checkpoints import VAE, rewrite_config, rewrite_weights
from instantrt.errors import CheckpointError
from instantrt_bench.full_size.checkpoint import PARTS, allocate
from instantrt_bench.full_size.scales import SDXL
from instantrt_bench.gpu_check.vae import inflate
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.export import export_bundle
from instantrt_export.networks.vae import VAEDecoderNetwork
from instantrt_export.networks.vae_range import scale_residual_stream
from instantrt_export.parity import FP16_LARGEST, largest_outputs
from instantrt_export.shapes import ExportShapes
from instantrt_nano.weights import fill_with_random
from randomness import fresh_rng

MOST_ERROR = 5e-3


@contextmanager
def computing_in_fp16(module: nn.Module) -> Iterator[nn.Module]:
    """A copy as a GPU computes it: products added up in fp32, weights and what every layer gives rounded to fp16."""
    half = deepcopy(module)
    for parameter in half.parameters():
        parameter.data = parameter.data.half().float()
    for part in half.modules():
        part.register_forward_hook(lambda _part, _inputs, out: out.half().float() if torch.is_tensor(out) else None)
    yield half


def decoded(network: Any, latents: Tensor) -> Tensor:
    """What is decoded, before it is made to bytes."""
    with torch.inference_mode():
        scaled = latents * network.scale + network.shift
        return network.decoder(network.post_quant_conv(scaled))


def full_size() -> AutoencoderKL:
    """SDXL's VAE with seeded random weights in its decoder."""
    with torch.device("meta"):
        vae = AutoencoderKL(**SDXL.vae)
    allocate(vae, torch.float32, PARTS["vae_decoder"])
    fill_with_random(vae, "vae", 0)
    return vae.eval()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(("made", "factor"), [("nano", 5e4), ("full size", 3e3), ("full size", 1e5)])
def test_a_decoder_that_overflows_fp16_is_right_in_fp16_when_scaled(
    nano_checkpoint: Path, made: str, factor: float
) -> None:
    vae: Any = Checkpoint.open(nano_checkpoint).vae(torch.float32) if made == "nano" else full_size()
    inflate(vae, factor)
    side = 16 if made == "nano" else 4
    latents = torch.from_numpy(fresh_rng().standard_normal((1, 4, side, side)).astype(np.float32))
    plain = VAEDecoderNetwork(vae)
    with largest_outputs(plain) as largest:
        expected = decoded(plain, latents)
    assert max(largest.values()) > FP16_LARGEST
    with computing_in_fp16(plain) as half:
        assert not torch.isfinite(decoded(half, latents)).all()
    scaled = deepcopy(plain)
    scale_residual_stream(scaled.decoder)
    assert torch.equal(decoded(scaled, latents), expected), "powers of two change no significand"
    with computing_in_fp16(scaled) as half:
        found = decoded(half, latents)
    assert torch.isfinite(found).all()
    assert relative_error(found, expected) <= MOST_ERROR


def test_without_a_scaled_epsilon_dark_and_even_pictures_would_change() -> None:
    """The control: features so small that the norms' epsilon counts."""
    vae = full_size()
    inflate(vae, 1e-4)
    network, latents = VAEDecoderNetwork(vae), torch.zeros(1, 4, 4, 4)
    expected = decoded(network, latents)
    scaled, careless = deepcopy(network), deepcopy(network)
    scale_residual_stream(scaled.decoder)
    scale_residual_stream(careless.decoder)
    for part in careless.decoder.modules():
        if isinstance(part, nn.GroupNorm):
            part.eps = 1e-6
    assert torch.equal(decoded(scaled, latents), expected)
    assert relative_error(decoded(careless, latents), expected) > MOST_ERROR


def test_a_checkpoint_that_asks_for_range_is_exported_in_fp16(folder: Path, tmp_path: Path) -> None:
    name = "decoder.mid_block.resnets.0.conv1"
    rewrite_weights(folder / VAE, lambda weights: weights | {f"{name}.weight": weights[f"{name}.weight"] * 3e5})
    rewrite_config(folder / "vae" / "config.json", force_upcast=True)
    shapes = ExportShapes(width=(64, 128), height=(64, 128))
    (exported,) = export_bundle(
        Checkpoint.open(folder), tmp_path / "out", shapes=shapes, precision="fp16", only=["vae_decoder"]
    )
    weights = onnx.load(exported.path).graph.initializer
    assert {w.data_type for w in weights if len(w.dims) == 4} == {TensorProto.FLOAT16}
    assert exported.parity_error is not None
    assert exported.parity_error <= MOST_ERROR


def test_layers_of_which_nothing_is_known_are_refused() -> None:
    vae = full_size()
    vae.decoder.mid_block.extra = nn.Conv2d(4, 4, 1)
    with pytest.raises(CheckpointError, match=r"(?s)unknown kind.*mid_block\.extra.*--vae-precision fp32"):
        scale_residual_stream(vae.decoder)
