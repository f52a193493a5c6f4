"""The adapter file and its Resampler, against diffusers' own image projection."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import diffusers.loaders.unet as diffusers_loader
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.embeddings import IPAdapterPlusImageProjection
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from instantrt.errors import CheckpointError
from instantrt_export.adapter import FACE_ATTENTION, IMAGE_PROJECTION, AdapterFile, infer_resampler_shape
from instantrt_export.modules.resampler import HEAD_WIDTH, Resampler, ResamplerShape

SHAPE = ResamplerShape(width=96, depth=4, heads=3, queries=5, input_width=40, output_width=56, ff_width=384)


def randomised(shape: ResamplerShape) -> Resampler:
    """With norms and biases that are not the neutral ones of a new module."""
    module = Resampler(shape).eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.ndim < 2 else 1.5 / parameter.shape[-1] ** 0.5))
    for name, parameter in module.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter += 1
    return module


def diffusers_projection(module: Resampler, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """diffusers' conversion of the published weights. It takes depth and inner width for granted: those are set."""
    shape = module.shape
    sized = partial(IPAdapterPlusImageProjection, depth=shape.depth, ffn_ratio=shape.ff_width / shape.width)
    monkeypatch.setattr(diffusers_loader, "IPAdapterPlusImageProjection", sized)
    unet = UNet2DConditionModel(
        block_out_channels=(32,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        cross_attention_dim=8,
    )
    converted = unet._convert_ip_adapter_image_proj_to_diffusers(module.state_dict(), low_cpu_mem_usage=False)
    return converted.eval().requires_grad_(False)


@pytest.mark.parametrize(
    "shape",
    [SHAPE, ResamplerShape(128, 2, 2, 16, 128, 128, 256), ResamplerShape(64, 1, 4, 3, 512, 32, 64)],
    ids=["as InstantID's", "nano", "one layer"],
)
def test_resampler_equals_diffusers_image_projection(shape, monkeypatch):
    module = randomised(shape)
    embeddings = 3 * torch.randn(4, 1, shape.input_width)
    reference = diffusers_projection(module, monkeypatch)(embeddings)
    tokens = module(embeddings)
    assert tokens.shape == (4, shape.queries, shape.output_width)
    assert (tokens - reference).norm() / reference.norm() <= 1e-5
    assert (tokens[0] - tokens[1]).norm() / tokens[0].norm() > 1e-2, "the embedding must matter"


def test_resampler_depends_on_every_weight():
    module = randomised(SHAPE)
    embeddings = torch.randn(2, 1, SHAPE.input_width)
    tokens = module(embeddings)
    for name, parameter in module.named_parameters():
        kept = parameter.clone()
        parameter += torch.randn_like(parameter)
        assert not torch.allclose(module(embeddings), tokens, rtol=1e-4), name
        parameter.copy_(kept)


def test_resampler_names_its_weights_as_published():
    layer = ["0.norm1.weight", "0.norm1.bias", "0.norm2.weight", "0.norm2.bias", "0.to_q.weight", "0.to_kv.weight"]
    layer += ["0.to_out.weight", "1.0.weight", "1.0.bias", "1.1.weight", "1.3.weight"]
    expected = {"latents", "proj_in.weight", "proj_in.bias", "proj_out.weight", "proj_out.bias"}
    expected |= {"norm_out.weight", "norm_out.bias"} | {f"layers.{i}.{name}" for i in range(4) for name in layer}
    assert set(Resampler(SHAPE).state_dict()) == expected


def test_resampler_in_half_precision_stays_finite_for_large_embeddings():
    module = randomised(SHAPE)
    embeddings = 30 * torch.randn(3, 1, SHAPE.input_width)
    exact = module(embeddings)
    tokens = module.half()(embeddings.half())
    assert tokens.dtype == torch.float16
    assert (tokens.float() - exact).norm() / exact.norm() < 2e-2


@settings(deadline=None, max_examples=20)
@given(st.data())
def test_shape_is_read_off_the_weights(data):
    size = st.integers(1, 200)
    shape = ResamplerShape(
        width=data.draw(size),
        depth=data.draw(st.integers(1, 12)),
        heads=data.draw(st.integers(1, 20)),
        queries=data.draw(size),
        input_width=data.draw(size),
        output_width=data.draw(size),
        ff_width=data.draw(size),
    )
    with torch.device("meta"):
        weights = Resampler(shape).state_dict()
    assert infer_resampler_shape({f"{IMAGE_PROJECTION}{n}": tuple(t.shape) for n, t in weights.items()}) == shape


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {f"{IMAGE_PROJECTION}{n}": tuple(t.shape) for n, t in module.state_dict().items()}


def test_another_kind_of_image_projection_is_refused():
    with pytest.raises(CheckpointError, match=r"(?s)No Resampler.*latents.*proj_in.*image_proj\.proj\.weight"):
        infer_resampler_shape({"image_proj.proj.weight": (8192, 1280), "ip_adapter.1.to_k_ip.weight": (640, 2048)})


def test_heads_of_another_width_are_refused():
    shapes = shapes_of(Resampler(SHAPE)) | {"image_proj.layers.0.0.to_q.weight": (HEAD_WIDTH + 32, 96)}
    with pytest.raises(CheckpointError, match=r"no heads of 64(?s:.*)96"):
        infer_resampler_shape(shapes)


@pytest.fixture
def weights():
    """Flat weights of a small adapter."""
    flat = {f"{IMAGE_PROJECTION}{n}": t for n, t in randomised(SHAPE).state_dict().items()}
    return flat | {f"{FACE_ATTENTION}{i}.to_{kv}_ip.weight": torch.randn(8, 56) for i in (1, 3) for kv in "kv"}


def nested(flat):
    return {
        section: {n.removeprefix(f"{section}."): t for n, t in flat.items() if n.startswith(f"{section}.")}
        for section in ("image_proj", "ip_adapter")
    }


@pytest.mark.parametrize("form", ["safetensors", "nested pickle", "flat pickle", "old pickle format"])
def test_every_form_of_the_file_gives_the_same_weights(form, weights, tmp_path: Path):
    path = tmp_path / ("ip-adapter.safetensors" if form == "safetensors" else "ip-adapter.bin")
    if form == "safetensors":
        save_file(weights, path)
    elif form == "old pickle format":
        torch.save(nested(weights), path, _use_new_zipfile_serialization=False)
    else:
        torch.save(weights if form == "flat pickle" else nested(weights), path)
    adapter = AdapterFile.open(path)
    assert adapter.shapes == {n: tuple(t.shape) for n, t in weights.items()}
    read = adapter.read(IMAGE_PROJECTION, torch.float32)
    assert set(read) == set(Resampler(SHAPE).state_dict())
    assert all(torch.equal(t, weights[f"{IMAGE_PROJECTION}{n}"]) for n, t in read.items())
    assert {t.dtype for t in adapter.read(FACE_ATTENTION, torch.float16).values()} == {torch.float16}


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_with_code_is_refused_and_does_not_run(weights, tmp_path: Path):
    torch.save({**nested(weights), "ip_adapter": Evil(tmp_path / "ran")}, tmp_path / "ip-adapter.bin")
    with pytest.raises(CheckpointError, match=r"(?s)cannot be read as a file of tensors.*run its author's code"):
        AdapterFile.open(tmp_path / "ip-adapter.bin")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["ip-adapter.bin", "ip-adapter.safetensors"])
def test_a_truncated_file_is_refused(name, weights, tmp_path: Path):
    path = tmp_path / name
    if path.suffix == ".bin":
        torch.save(nested(weights), path)
    else:
        save_file(weights, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=name):
        AdapterFile.open(path)


@pytest.mark.parametrize("content", [[1, 2], {"image_proj": 3}, {"state_dict": {"latents": torch.zeros(1)}}])
def test_a_pickle_of_something_else_is_refused(content, tmp_path: Path):
    torch.save(content, tmp_path / "ip-adapter.bin")
    with pytest.raises(CheckpointError, match=r"ip-adapter\.bin"):
        AdapterFile.open(tmp_path / "ip-adapter.bin")


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps({"a": 1}, protocol=2)])
def test_files_that_torch_did_not_write_are_refused(content, tmp_path: Path):
    (tmp_path / "ip-adapter.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"ip-adapter\.bin"):
        AdapterFile.open(tmp_path / "ip-adapter.bin")
