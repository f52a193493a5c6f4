"""The exported networks against diffusers' and transformers' own modules, called as their pipelines call them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from diffusers import ControlNetModel, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D

from instantrt.contracts import NOISE_ROWS, STEP_COLUMNS, STEP_ROWS, ModelDims, Residual, network_contracts
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.dims import face_attention_sites
from instantrt_export.export import export_bundle
from instantrt_export.networks.attention import (
    CrossAttentionNetwork,
    face_key_value_projection,
    key_value_projection,
)
from instantrt_export.networks.embeddings import ControlEmbeddingNetwork, TimeEmbedding, TimeEmbeddingNetwork
from instantrt_export.networks.identitynet import IdentityNetNetwork
from instantrt_export.networks.unet import UNetNetwork
from instantrt_export.networks.vae import VAEDecoderNetwork
from instantrt_export.shapes import ExportShapes
from randomness import fresh_rng

STATIC = {"B": 2, "G": 2, "H": 128, "W": 192}
SYMBOLIC = [
    {"B": 1, "G": 1, "H": 128, "W": 128},
    {"B": 1, "G": 2, "H": 64, "W": 128},
    {"B": 2, "G": 1, "H": 192, "W": 64},
    {"B": 2, "G": 2, "H": 128, "W": 192},
    {"B": 4, "G": 1, "H": 64, "W": 64},
    {"B": 4, "G": 2, "H": 128, "W": 64},
]


@dataclass
class Exported:
    """One precision's ONNX files, and how far they may be off."""

    folder: Path
    dtype: type
    limit: float
    sessions: dict[str, onnxruntime.InferenceSession] = field(default_factory=dict)

    def __call__(self, network: str, **inputs: np.ndarray) -> list[np.ndarray]:
        if network not in self.sessions:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.log_severity_level = 3
            path = self.folder / f"{network}.onnx"
            self.sessions[network] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return self.sessions[network].run(None, inputs)

    def assert_close(self, found: np.ndarray, expected: torch.Tensor) -> None:
        assert_close(found, expected, self.limit)


@dataclass
class InTorch:
    """The networks before their export, called in the same way."""

    dims: ModelDims
    modules: dict[str, torch.nn.Module]
    dtype: type = np.float32
    limit: float = 1e-5

    def __call__(self, network: str, **inputs: np.ndarray) -> list[np.ndarray]:
        ordered = [inputs[spec.name] for spec in network_contracts(self.dims)[network].inputs]
        outputs = self.modules[network](*map(torch.from_numpy, ordered))
        return [x.numpy() for x in (outputs if isinstance(outputs, tuple) else (outputs,))]

    def assert_close(self, found: np.ndarray, expected: torch.Tensor) -> None:
        assert_close(found, expected, self.limit)


def assert_close(found: np.ndarray, expected: torch.Tensor, limit: float) -> None:
    expected = expected.double().numpy()
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) <= limit * np.linalg.norm(expected)


@pytest.fixture(scope="module")
def checkpoint(nano_checkpoint: Path) -> Checkpoint:
    return Checkpoint.open(nano_checkpoint)


@pytest.fixture(scope="module")
def fp32(nano_bundle: Path) -> Exported:
    return Exported(nano_bundle / "onnx", np.float32, 1e-5)


@pytest.fixture(scope="module")
def fp16(checkpoint: Checkpoint, made_once) -> Exported:
    """Every torch network at one static size; compared with fp32 modules."""
    shapes = ExportShapes(width=STATIC["W"], height=STATIC["H"], slots=STATIC["B"], guidance_batch=STATIC["G"])
    names = [name for name in network_contracts(checkpoint.dims) if not name.startswith("face_")]

    def export(bundle: Path) -> None:
        export_bundle(checkpoint, bundle, shapes=shapes, precision="fp16", only=names, check_parity=False)

    return Exported(made_once("fp16 at one size", export) / "onnx", np.float16, 5e-3)


@pytest.fixture(params=[pytest.param(sizes, id="-".join(f"{s}{n}" for s, n in sizes.items())) for sizes in SYMBOLIC])
def symbolic(request: pytest.FixtureRequest) -> dict[str, int]:
    return request.param


@pytest.fixture(scope="module")
def modules(checkpoint: Checkpoint) -> Callable[[str], torch.nn.Module]:
    loaded: dict[str, torch.nn.Module] = {}

    def load(name: str) -> torch.nn.Module:
        if name not in loaded:
            loaded[name] = getattr(checkpoint, name)(torch.float32)
        return loaded[name]

    return load


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return rng.standard_normal(shape).astype(dtype)


def as_torch(x: np.ndarray) -> torch.Tensor:
    """Half-precision inputs are given to the fp32 modules as they are."""
    return torch.from_numpy(x).float() if x.dtype == np.float16 else torch.from_numpy(x)


# --- conditioning and decode


def check_text_encoder(net: Exported, model: torch.nn.Module, rng: np.random.Generator) -> None:
    ids = rng.integers(0, model.config.vocab_size, (3, 77), dtype=np.int32)
    ids[:, -1] = model.config.eos_token_id
    encoded = model(torch.from_numpy(ids), output_hidden_states=True)
    hidden_states, *pooled = net("text_encoder_2" if hasattr(encoded, "text_embeds") else "text_encoder", input_ids=ids)
    net.assert_close(hidden_states, encoded.hidden_states[-2])
    for array in pooled:
        net.assert_close(array, encoded.text_embeds)


@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_2"])
def test_text_encoders_in_fp32(fp32: Exported, modules, rng, name: str) -> None:
    check_text_encoder(fp32, modules(name), rng)


@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_2"])
def test_text_encoders_in_fp16(fp16: Exported, modules, rng, name: str) -> None:
    check_text_encoder(fp16, modules(name), rng)


def check_image_projection(net: Exported, resampler: torch.nn.Module, width: int, rng: np.random.Generator) -> None:
    embedding = normal(rng, (3, width), np.float32)
    embedding[0] = 0  # the negative row's
    (tokens,) = net("image_projection", embedding=embedding)
    net.assert_close(tokens, resampler(torch.from_numpy(embedding)[:, None]))


def test_image_projection_in_fp32(fp32: Exported, checkpoint: Checkpoint, modules, rng) -> None:
    check_image_projection(fp32, modules("resampler"), checkpoint.dims.face_embedding_width, rng)


def test_image_projection_in_fp16(fp16: Exported, checkpoint: Checkpoint, modules, rng) -> None:
    check_image_projection(fp16, modules("resampler"), checkpoint.dims.face_embedding_width, rng)


def check_vae_decoder(net: Exported, vae: torch.nn.Module, sizes: dict[str, int], rng: np.random.Generator) -> None:
    latents = normal(rng, (sizes["B"], 4, sizes["H"] // 8, sizes["W"] // 8), np.float32)
    pictures, magnitude = net("vae_decoder", latents=latents)
    decoded = vae.decode(torch.from_numpy(latents) / vae.config.scaling_factor).sample
    pixels = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1) * 255
    assert pictures.dtype == np.uint8
    assert pictures.shape == pixels.shape
    assert pixels.std() > 20
    difference = np.abs(pictures - pixels.numpy())
    # Half a grey level is the rounding; beyond it lies what the precision changes.
    assert difference.max() <= 0.5 + 255 * net.limit
    assert np.mean(difference > 0.5 + 1e-3) <= (0.1 if net.dtype == np.float16 else 1e-4)
    np.testing.assert_allclose(magnitude, decoded.abs().mean((1, 2, 3)).numpy(), rtol=net.limit)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_magnitude_of_a_picture_is_finite_only_if_all_of_it_is(fp32: Exported, rng, value: float) -> None:
    latents = normal(rng, (2, 4, STATIC["H"] // 8, STATIC["W"] // 8), np.float32)
    latents[1, 2, 3, 1] = value
    pictures, magnitude = fp32("vae_decoder", latents=latents)
    assert pictures.dtype == np.uint8
    assert list(np.isfinite(magnitude)) == [True, False]


def test_vae_decoder_in_fp32(fp32: Exported, modules, rng, symbolic: dict[str, int]) -> None:
    check_vae_decoder(fp32, modules("vae"), symbolic, rng)


def test_vae_decoder_in_fp16(fp16: Exported, modules, rng) -> None:
    check_vae_decoder(fp16, modules("vae"), STATIC, rng)


def test_vae_latents_with_mean_and_deviation(checkpoint: Checkpoint) -> None:
    vae = checkpoint.vae(torch.float32)
    mean, deviation = [0.3, -0.2, 0.5, 0.1], [0.7, 1.4, 0.9, 1.1]
    vae.register_to_config(latents_mean=mean, latents_std=deviation)
    latents = torch.randn(1, 4, 8, 8)
    by_channel = [torch.tensor(values).view(1, 4, 1, 1) for values in (mean, deviation)]
    decoded = vae.decode(latents * by_channel[1] / vae.config.scaling_factor + by_channel[0]).sample
    expected = (decoded / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1) * 255
    assert (VAEDecoderNetwork(vae)(latents)[0] - expected).abs().max() <= 0.5 + 1e-3


# --- once per request for the loop


def time_inputs(sizes: dict[str, int], pooled_width: int, dtype: type, rng: np.random.Generator) -> dict:
    return {
        "timesteps": rng.uniform(0, 999, 7).astype(np.float32),
        "pooled": normal(rng, (sizes["G"], pooled_width), dtype),
        "time_ids": rng.integers(0, 1024, (sizes["G"], 6)).astype(np.float32),
    }


def check_time_embedding(
    net: Exported, checkpoint: Checkpoint, modules, sizes: dict[str, int], rng: np.random.Generator
) -> None:
    given = time_inputs(sizes, checkpoint.dims.pooled_width, net.dtype, rng)
    pooled, time_ids = as_torch(given["pooled"]), torch.from_numpy(given["time_ids"])
    for name, found in zip(("unet", "identitynet"), net("time_embedding", **given), strict=True):
        module = modules(name)
        # What both models' forward computes before their first convolution, and their resnets from it.
        projections = [r.time_emb_proj for r in module.modules() if isinstance(r, ResnetBlock2D)]
        added = torch.cat([pooled, module.add_time_proj(time_ids.flatten()).reshape(sizes["G"], -1)], dim=-1)
        for row, timestep in zip(found, given["timesteps"], strict=True):
            projected = module.time_proj(torch.full((sizes["G"],), float(timestep)))
            activated = F.silu(module.time_embedding(projected) + module.add_embedding(added))
            net.assert_close(row, torch.cat([project(activated) for project in projections], dim=-1))


@pytest.mark.parametrize("guidance_batch", [1, 2])
def test_time_embedding_in_fp32(fp32: Exported, checkpoint: Checkpoint, modules, rng, guidance_batch: int) -> None:
    check_time_embedding(fp32, checkpoint, modules, {"G": guidance_batch}, rng)


def test_time_embedding_in_fp16(fp16: Exported, checkpoint: Checkpoint, modules, rng) -> None:
    check_time_embedding(fp16, checkpoint, modules, STATIC, rng)


def check_cross_attention(
    net: Exported, checkpoint: Checkpoint, modules, sizes: dict[str, int], rng: np.random.Generator
) -> None:
    dims, guidance_batch = checkpoint.dims, sizes["G"]
    text = normal(rng, (guidance_batch, dims.text_tokens, dims.token_width), net.dtype)
    face = normal(rng, (guidance_batch, dims.face_tokens, dims.token_width), net.dtype)
    found = net("cross_attention", text_tokens=text, face_tokens=face)
    unet, identitynet = (
        [layer.weight for name, layer in modules(n).named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]
        for n in ("unet", "identitynet")
    )
    adapter = [weight for pair in checkpoint.face_attention_weights() for weight in pair]
    tokens = (as_torch(text), as_torch(face), as_torch(face))
    for array, given, weights in zip(found, tokens, (unet, adapter, identitynet), strict=True):
        net.assert_close(array, torch.cat([given @ weight.T for weight in weights], dim=-1))


@pytest.mark.parametrize("guidance_batch", [1, 2])
def test_cross_attention_in_fp32(fp32: Exported, checkpoint: Checkpoint, modules, rng, guidance_batch: int) -> None:
    check_cross_attention(fp32, checkpoint, modules, {"G": guidance_batch}, rng)


def test_cross_attention_in_fp16(fp16: Exported, checkpoint: Checkpoint, modules, rng) -> None:
    check_cross_attention(fp16, checkpoint, modules, STATIC, rng)


def random_picture(sizes: dict[str, int], rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (sizes["B"], sizes["H"], sizes["W"], 3), dtype=np.uint8)


def control_image(picture: np.ndarray) -> torch.Tensor:
    """As diffusers' image processor prepares a control picture: [B, 3, H, W], 0 to 1."""
    return torch.from_numpy(picture).permute(0, 3, 1, 2).float() / 255


def check_control_embedding(net: Exported, modules, sizes: dict[str, int], rng: np.random.Generator) -> None:
    picture = random_picture(sizes, rng)
    (features,) = net("control_embedding", image=picture)
    net.assert_close(features, modules("identitynet").controlnet_cond_embedding(control_image(picture)))


def test_control_embedding_in_fp32(fp32: Exported, modules, rng, symbolic: dict[str, int]) -> None:
    check_control_embedding(fp32, modules, symbolic, rng)


def test_control_embedding_in_fp16(fp16: Exported, modules, rng) -> None:
    check_control_embedding(fp16, modules, STATIC, rng)


def test_control_pictures_in_reversed_channel_order(checkpoint: Checkpoint) -> None:
    identitynet = checkpoint.identitynet(torch.float32)
    picture = random_picture({"B": 1, "H": 64, "W": 64}, fresh_rng())
    expected = identitynet.controlnet_cond_embedding(control_image(picture).flip(1))
    identitynet.register_to_config(controlnet_conditioning_channel_order="bgr")
    torch.testing.assert_close(ControlEmbeddingNetwork(identitynet)(torch.from_numpy(picture)), expected)


# --- the loop


@dataclass
class Slots:
    """Random inputs of one step of B slots, every slot at another step of another schedule."""

    sizes: dict[str, int]
    loop: dict[str, np.ndarray]  # inputs that both loop networks have
    text_tokens: np.ndarray  # [G, B, 77, token width]
    face_tokens: np.ndarray  # [G, B, 16, token width]
    text_kv: np.ndarray  # of the UNet
    timesteps: np.ndarray  # [B], of the step that each slot is at
    pooled: np.ndarray  # [B, G, pooled width]
    time_ids: np.ndarray  # [B, G, 6]
    dtype: type

    def row(self, column: str) -> torch.Tensor:
        """A column of the slots' step-table rows, f32 [B, 1, 1, 1]."""
        rows = [np.minimum(self.loop["step"], STEP_ROWS - 1)]
        values = self.loop["step_table"][np.arange(self.sizes["B"]), rows[0], STEP_COLUMNS.index(column)]
        return torch.from_numpy(values)[:, None, None, None]

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """[B, ...] repeated for each half: [G*B, ...]."""
        return torch.cat([x] * self.sizes["G"])

    def sample(self) -> torch.Tensor:
        """What diffusers' models are given: the scaled latents of all rows."""
        return self.rows(torch.from_numpy(self.loop["latents"]) * self.row("input_scale"))

    def conditions(self) -> dict[str, torch.Tensor]:
        """``added_cond_kwargs`` of all rows."""
        pooled, time_ids = as_torch(self.pooled), torch.from_numpy(self.time_ids)
        return {"text_embeds": pooled.transpose(0, 1).flatten(0, 1), "time_ids": time_ids.transpose(0, 1).flatten(0, 1)}

    def shape(self, channels: int, scale: int) -> tuple[int, ...]:
        return (channels, self.sizes["H"] // scale, self.sizes["W"] // scale)


def make_slots(
    net: Exported | InTorch, dims: ModelDims, sizes: dict[str, int], which: str, rng: np.random.Generator
) -> Slots:
    slots, guidance_batch = sizes["B"], sizes["G"]
    # Within the noise rows, beyond them, at the last row and past it.
    step = rng.permutation([3, NOISE_ROWS + 41, STEP_ROWS - 1, STEP_ROWS + 5])[:slots].astype(np.int32)
    time = [time_inputs(sizes, dims.pooled_width, net.dtype, rng) for _ in range(slots)]
    width = {"unet": dims.unet_time_width, "identitynet": dims.identitynet_time_width}[which]
    embeddings = normal(rng, (slots, STEP_ROWS, guidance_batch, width), net.dtype)
    for slot in range(slots):
        found = net("time_embedding", **time[slot])[("unet", "identitynet").index(which)]
        embeddings[slot, min(step[slot], STEP_ROWS - 1)] = found[2]
    text = normal(rng, (guidance_batch, slots, dims.text_tokens, dims.token_width), net.dtype)
    face = normal(rng, (guidance_batch, slots, dims.face_tokens, dims.token_width), net.dtype)
    tokens = [(np.ascontiguousarray(text[:, b]), np.ascontiguousarray(face[:, b])) for b in range(slots)]
    kv = [net("cross_attention", text_tokens=t, face_tokens=f) for t, f in tokens]
    text_kv, *face_kv = (np.stack(arrays, axis=1) for arrays in zip(*kv, strict=True))
    loop = {
        "latents": normal(rng, (slots, 4, sizes["H"] // 8, sizes["W"] // 8), np.float32),
        "step": step,
        "step_table": rng.uniform(0.5, 1.5, (slots, STEP_ROWS, len(STEP_COLUMNS))).astype(np.float32),
        "time_embeddings": embeddings,
        "face_kv": face_kv[("unet", "identitynet").index(which)],
    }
    pooled, time_ids = (np.stack([t[key] for t in time]) for key in ("pooled", "time_ids"))
    timesteps = np.array([t["timesteps"][2] for t in time])
    return Slots(sizes, loop, text, face, text_kv, timesteps, pooled, time_ids, net.dtype)


def random_masks(slots: Slots, scales: tuple[int, ...], rng: np.random.Generator) -> dict[int, np.ndarray]:
    shape = {s: (slots.sizes["B"], *slots.shape(1, s)) for s in scales}
    return {s: rng.random(shape[s]).astype(slots.dtype) for s in scales}


def check_identitynet(
    net: Exported | InTorch,
    dims: ModelDims,
    identitynet: torch.nn.Module,
    sizes: dict[str, int],
    rng: np.random.Generator,
) -> None:
    slots, picture = make_slots(net, dims, sizes, "identitynet", rng), random_picture(sizes, rng)
    (features,) = net("control_embedding", image=picture)
    masks = random_masks(slots, dims.control_strides, rng)
    named_masks = {f"control_mask_{s}": mask for s, mask in masks.items()}
    found = net("identitynet", **slots.loop, control_features=features, **named_masks)
    down, mid = identitynet(
        slots.sample(),
        slots.rows(torch.from_numpy(slots.timesteps)),
        encoder_hidden_states=as_torch(slots.face_tokens).flatten(0, 1),
        controlnet_cond=slots.rows(control_image(picture)),
        added_cond_kwargs=slots.conditions(),
        return_dict=False,
    )
    residuals = (*dims.residuals, dims.mid_residual)
    for array, raw, residual in zip(found, [*down, mid], residuals, strict=True):
        expected = raw * slots.rows(as_torch(masks[residual.stride]) * slots.row("control_scale"))
        net.assert_close(array, expected.unflatten(0, (slots.sizes["G"], slots.sizes["B"])))


def test_identitynet_in_fp32(fp32: Exported, checkpoint, modules, rng, symbolic: dict[str, int]) -> None:
    check_identitynet(fp32, checkpoint.dims, modules("identitynet"), symbolic, rng)


def test_identitynet_in_fp16(fp16: Exported, checkpoint, modules, rng) -> None:
    check_identitynet(fp16, checkpoint.dims, modules("identitynet"), STATIC, rng)


class SimpleFaceAttention(torch.nn.Module):
    """Face attention by the book, one head at a time: softmax(q k / sqrt(d)) v over text, plus mask times face."""

    def __init__(self, to_k_ip: torch.Tensor, to_v_ip: torch.Tensor) -> None:
        super().__init__()
        self.to_k_ip, self.to_v_ip = to_k_ip, to_v_ip
        self.masks: dict[int, torch.Tensor] = {}  # image tokens -> [N, image tokens, 1]

    def forward(self, attn, hidden_states, encoder_hidden_states, attention_mask=None) -> torch.Tensor:
        text, face = encoder_hidden_states[:, :77], encoder_hidden_states[:, 77:]
        query = attn.to_q(hidden_states)
        from_text = self.attend(query, attn.to_k(text), attn.to_v(text), attn.heads)
        from_face = self.attend(query, face @ self.to_k_ip.T, face @ self.to_v_ip.T, attn.heads)
        return attn.to_out[0](from_text + self.masks[hidden_states.shape[1]] * from_face)

    def attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int) -> torch.Tensor:
        outputs = []
        for q, k, v in zip(query.chunk(heads, -1), key.chunk(heads, -1), value.chunk(heads, -1), strict=True):
            outputs.append(F.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1) @ v)
        return torch.cat(outputs, dim=-1)


FaceUNet = tuple[torch.nn.Module, list[SimpleFaceAttention]]


def with_simple_face_attention(unet: torch.nn.Module, weights: list[tuple[torch.Tensor, torch.Tensor]]) -> FaceUNet:
    crossing = [name for name in unet.attn_processors if ".attn2." in name]
    layers = [SimpleFaceAttention(*pair) for pair in weights]
    unet.set_attn_processor({**unet.attn_processors, **dict(zip(crossing, layers, strict=True))})
    return unet, layers


@pytest.fixture(scope="module")
def face_unet(checkpoint: Checkpoint) -> FaceUNet:
    return with_simple_face_attention(checkpoint.unet(torch.float32), checkpoint.face_attention_weights())


def check_unet(
    net: Exported | InTorch, dims: ModelDims, face_unet: FaceUNet, sizes: dict[str, int], rng: np.random.Generator
) -> None:
    slots, (unet, layers) = make_slots(net, dims, sizes, "unet", rng), face_unet
    guidance_and_slots = (slots.sizes["G"], slots.sizes["B"])
    masks = random_masks(slots, dims.adapter_strides, rng)
    specs = (*dims.residuals, dims.mid_residual)
    residuals = [normal(rng, (*guidance_and_slots, *slots.shape(r.channels, r.stride)), net.dtype) for r in specs]
    history = normal(rng, slots.loop["latents"].shape, np.float32)
    noise = normal(rng, (slots.sizes["B"], NOISE_ROWS, *slots.shape(4, 8)), net.dtype)
    next_latents, next_history, next_step = net(
        "unet",
        **slots.loop,
        history=history,
        noise=noise,
        text_kv=slots.text_kv,
        **{f"adapter_mask_{s}": mask for s, mask in masks.items()},
        **{f"residual_{i}": r for i, r in enumerate(residuals[:-1])},
        residual_mid=residuals[-1],
    )
    token_masks = {mask[0].size: slots.rows(as_torch(mask)).flatten(1).unsqueeze(-1) for mask in masks.values()}
    for layer in layers:
        layer.masks = token_masks
    flat = [as_torch(r).flatten(0, 1) for r in residuals]
    prediction = unet(
        slots.sample(),
        slots.rows(torch.from_numpy(slots.timesteps)),
        encoder_hidden_states=torch.cat([as_torch(slots.text_tokens), as_torch(slots.face_tokens)], 2).flatten(0, 1),
        added_cond_kwargs=slots.conditions(),
        down_block_additional_residuals=tuple(flat[:-1]),
        mid_block_additional_residual=flat[-1],
        return_dict=False,
    )[0].unflatten(0, guidance_and_slots)
    eps = prediction[0] + slots.row("guidance") * (prediction[-1] - prediction[0])
    x, h = torch.from_numpy(slots.loop["latents"]), torch.from_numpy(history)
    drawn = noise[np.arange(slots.sizes["B"]), np.minimum(slots.loop["step"], NOISE_ROWS - 1)]
    row, z = slots.row, as_torch(drawn)
    net.assert_close(next_latents, row("a") * x + row("b") * eps + row("c") * h + row("s") * z)
    net.assert_close(next_history, row("d") * x + row("e") * eps + row("f") * h)
    np.testing.assert_array_equal(next_step, slots.loop["step"] + 1)


def test_unet_in_fp32(fp32: Exported, checkpoint, face_unet, rng, symbolic: dict[str, int]) -> None:
    check_unet(fp32, checkpoint.dims, face_unet, symbolic, rng)


def test_unet_in_fp16(fp16: Exported, checkpoint, face_unet, rng) -> None:
    check_unet(fp16, checkpoint.dims, face_unet, STATIC, rng)


# --- SDXL's own arrangement of blocks, which nano does not have: no attention at the top, several layers a block

SDXL_BLOCKS = {
    "block_out_channels": (32, 32, 64),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 3),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "attention_head_dim": (1, 2, 4),
    "norm_num_groups": 8,
    "cross_attention_dim": 48,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 32 + 6 * 8,
}


@pytest.fixture(scope="module")
def sdxl_dims(checkpoint: Checkpoint) -> ModelDims:
    """The residuals that the SDXL UNet's nine skip connections need."""
    skips = [(32, 8), (32, 8), (32, 8), (32, 16), (32, 16), (32, 16), (32, 32), (64, 32), (64, 32)]
    residuals = tuple(Residual(*skip) for skip in skips)
    # A UNet's layers are the encoder's, its mid block's and, one more a block, the decoder's.
    sizes = {"pooled_width": 32, "token_width": 48, "control_channels": 32}
    sizes |= {
        "unet_time_width": (2 + 2 + 3 + 3) * 32 + (2 + 2 + 3) * 64,
        "unet_kv_width": 2 * ((4 + 6) * 32 + (6 + 3 + 9) * 64),
    }
    sizes |= {"identitynet_time_width": 4 * 32 + 4 * 64, "identitynet_kv_width": 2 * (4 * 32 + (6 + 3) * 64)}
    scales = {"residuals": residuals, "mid_residual": Residual(64, 32), "adapter_strides": (16, 32)}
    return replace(checkpoint.dims, **sizes, **scales)


def test_loop_networks_with_the_blocks_of_sdxl(sdxl_dims: ModelDims, rng) -> None:
    up_blocks = ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
    unet = UNet2DConditionModel(in_channels=4, out_channels=4, up_block_types=up_blocks, **SDXL_BLOCKS).eval()
    identitynet = ControlNetModel(conditioning_embedding_out_channels=(8, 16, 24, 32), **SDXL_BLOCKS).eval()
    for zero_convolution in (*identitynet.controlnet_down_blocks, identitynet.controlnet_mid_block):
        torch.nn.init.normal_(zero_convolution.weight, std=0.2)
    torch.nn.init.normal_(identitynet.controlnet_cond_embedding.conv_out.weight, std=0.2)
    sites = face_attention_sites(unet, vae_stride=8)
    shapes = [(site.key_shape, site.value_shape) for site in sites]
    # Of unit gain: a saturated softmax would magnify float32's rounding.
    weights = [(torch.randn(key) / key[1] ** 0.5, torch.randn(value) / value[1] ** 0.5) for key, value in shapes]
    net = InTorch(
        sdxl_dims,
        {
            "time_embedding": TimeEmbeddingNetwork(TimeEmbedding(unet), TimeEmbedding(identitynet)),
            "cross_attention": CrossAttentionNetwork(
                key_value_projection(unet), face_key_value_projection(weights), key_value_projection(identitynet)
            ),
            "control_embedding": ControlEmbeddingNetwork(identitynet),
            "identitynet": IdentityNetNetwork(deepcopy(identitynet), sdxl_dims),
            "unet": UNetNetwork(deepcopy(unet), sdxl_dims),
        },
    )
    check_identitynet(net, sdxl_dims, identitynet, STATIC, rng)
    check_unet(net, sdxl_dims, with_simple_face_attention(unet, weights), STATIC, rng)


# --- what builders need of the graphs


@pytest.mark.parametrize("name", ["identitynet", "unet"])
def test_fp16_loop_networks_have_no_fp32_islands(fp16: Exported, name: str) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(fp16.folder / f"{name}.onnx"), data_prop=True)
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.input)}
    types |= {w.name: w.data_type for w in model.graph.initializer}
    heavy = [n for n in model.graph.node if n.op_type in ("Conv", "MatMul", "Gemm", "Attention", "Gelu", "Sigmoid")]
    assert len(heavy) > 50
    assert not [n for n in model.graph.node if n.op_type == "Softmax"]
    assert not [a.name for n in heavy if n.op_type == "Attention" for a in n.attribute if a.name == "softmax_precision"]
    assert {types[n.input[0]] for n in heavy} == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("name", ["identitynet", "unet", "control_embedding", "vae_decoder"])
def test_fixing_the_named_axes_makes_a_graph_static(nano_bundle: Path, checkpoint, tmp_path: Path, name: str) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "static.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    for spec in network_contracts(checkpoint.dims)[name].inputs:
        for axis, size in zip(spec.shape, spec.resolve(STATIC), strict=True):
            if isinstance(axis, str):
                options.add_free_dimension_override_by_name(axis, size)
    onnxruntime.InferenceSession(nano_bundle / "onnx" / f"{name}.onnx", options, providers=["CPUExecutionProvider"])
    static = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "static.onnx"))
    assert not [n.name for n in static.graph.node if n.op_type in ("Shape", "Range", "ConstantOfShape")]
    assert not [v.name for v in static.graph.output for d in v.type.tensor_type.shape.dim if not d.dim_value]
