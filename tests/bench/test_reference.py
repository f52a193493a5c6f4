"""The reference pipeline against diffusers' own pipelines, as far as those can express InstantID."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLControlNetPipeline, StableDiffusionXLPipeline
from diffusers.loaders.unet import UNet2DConditionLoadersMixin
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import MultiIPAdapterImageProjection
from PIL import Image
from transformers import CLIPTokenizer

from instantrt.errors import RequestError
from instantrt_bench.cases import loading
from instantrt_bench.reference.attention import FaceAttention
from instantrt_bench.reference.dtypes import DTYPES
from instantrt_bench.reference.pipeline import Reference, ReferenceInputs
from instantrt_bench.reference.projection import image_projection_from
from instantrt_bench.reference.schedulers import SCHEDULERS, scheduler_for
from instantrt_bench.results.metrics import relative_error
from instantrt_export.checkpoint import Checkpoint

SIDE = 128
FP32 = torch.float32


@pytest.fixture(scope="module")
def checkpoint(nano_checkpoint) -> Checkpoint:
    return Checkpoint.open(nano_checkpoint)


@pytest.fixture(scope="module")
def reference(checkpoint) -> Reference:
    return Reference.load(checkpoint)


@pytest.fixture(scope="module")
def inputs(checkpoint) -> ReferenceInputs:
    rng = np.random.default_rng(20)
    return ReferenceInputs(
        prompt="film noir portrait of a person",
        negative_prompt="blurry, low quality",
        face_embedding=rng.standard_normal(checkpoint.dims.face_embedding_width).astype(np.float32),
        control_image=rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
        steps=4,
        seed=7,
    )


@pytest.fixture(scope="module")
def base_pipeline(checkpoint) -> StableDiffusionXLPipeline:
    """diffusers' own SDXL pipeline on the base model alone."""
    return ready(StableDiffusionXLPipeline(**base_parts(checkpoint)), checkpoint)


def base_parts(checkpoint: Checkpoint) -> dict[str, object]:
    return {
        "vae": checkpoint.vae(FP32),
        "text_encoder": checkpoint.text_encoder(FP32),
        "text_encoder_2": checkpoint.text_encoder_2(FP32),
        "tokenizer": CLIPTokenizer.from_pretrained(checkpoint.tokenizer_dir),
        "tokenizer_2": CLIPTokenizer.from_pretrained(checkpoint.tokenizer_2_dir),
        "unet": checkpoint.unet(FP32),
        "scheduler": scheduler_for("euler", 1, checkpoint.scheduler_config),
        "add_watermarker": False,
    }


def ready(pipeline, checkpoint: Checkpoint):
    pipeline.set_progress_bar_config(disable=True)
    pipeline.checkpoint_scheduler_config = checkpoint.scheduler_config  # the pipeline's own is its last sampler's
    return pipeline


def diffusers_result(pipeline, inputs: ReferenceInputs, output_type: str = "latent", **options) -> np.ndarray:
    pipeline.scheduler = scheduler_for(inputs.sampler, inputs.steps, pipeline.checkpoint_scheduler_config)
    result = pipeline(
        prompt=inputs.prompt,
        negative_prompt=inputs.negative_prompt,
        num_inference_steps=inputs.steps,
        guidance_scale=inputs.guidance_scale,
        num_images_per_prompt=inputs.samples,
        generator=torch.Generator("cpu").manual_seed(inputs.seed),
        height=SIDE,
        width=SIDE,
        output_type=output_type,
        **options,
    ).images
    return np.asarray(result)


def without_identity(inputs: ReferenceInputs, **changes) -> ReferenceInputs:
    return replace(inputs, identity_strength=0.0, adapter_strength=0.0, **changes)


@pytest.mark.parametrize("sampler", SCHEDULERS)
def test_strengths_zero_give_the_base_models_latents_with_every_sampler(
    reference, base_pipeline, inputs, sampler
) -> None:
    plain = without_identity(inputs, sampler=sampler, steps=5)
    assert relative_error(reference.generate(plain).latents, diffusers_result(base_pipeline, plain)) < 1e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 1.0},
        {"negative_prompt": None},
        {"negative_prompt": ""},
        {"samples": 3, "sampler": "euler_ancestral"},
    ],
    ids=str,
)
def test_strengths_zero_give_the_base_models_pictures(reference, base_pipeline, inputs, changes) -> None:
    plain = without_identity(inputs, **changes)
    expected = (diffusers_result(base_pipeline, plain, "np") * 255).round()
    result = reference.generate(plain).images
    assert result.shape == (plain.samples, SIDE, SIDE, 3)
    assert np.abs(result - expected).max() <= 1
    assert np.mean(result != expected) < 1e-3


@pytest.mark.parametrize(("name", "limit"), [("fp16", 2e-2), ("bf16", 1e-1)])
def test_the_reference_runs_in_every_dtype(checkpoint, reference, inputs, name, limit) -> None:
    mask = np.zeros((64, 64), np.float32)
    mask[:, 16:] = 1
    small = replace(inputs, control_image=inputs.control_image[:64, :64], region_mask=mask, steps=2)
    loaded = Reference.load(checkpoint, device="cpu", dtype=DTYPES[name])
    networks = (loaded.unet, loaded.identitynet, loaded.vae, loaded.image_projection, *loaded.face_attention)
    assert {parameter.dtype for network in networks for parameter in network.parameters()} == {DTYPES[name]}
    found, expected = loaded.generate(small, keep_latents=True), reference.generate(small, keep_latents=True)
    assert found.latents.dtype == found.latents_per_call.dtype == np.float32
    assert 0 < relative_error(found.latents, expected.latents) < limit
    assert found.call_ms > 0
    assert found.peak_device_bytes is None  # a CPU's memory is the process's


def test_a_vae_that_overflows_in_fp16_stays_in_fp32(checkpoint, monkeypatch) -> None:
    config = dict(checkpoint.vae_config) | {"force_upcast": True}
    monkeypatch.setattr(Checkpoint, "vae_config", config)
    assert {name: Reference.load(checkpoint, dtype=dtype).vae.dtype for name, dtype in DTYPES.items()} == {
        "fp32": torch.float32,
        "fp16": torch.float32,
        "bf16": torch.bfloat16,
    }


def test_fidelity_holds_everything_against_fp32_on_the_cpu() -> None:
    defaults = inspect.signature(Reference.load).parameters
    assert (defaults["device"].default, defaults["dtype"].default) == ("cpu", torch.float32)
    assert "device=" not in inspect.getsource(loading)
    assert "dtype=" not in inspect.getsource(loading)


def test_no_negative_prompt_differs_from_an_empty_one(reference, inputs) -> None:
    pictures = [reference.generate(replace(inputs, negative_prompt=n)).latents for n in (None, "")]
    assert relative_error(*pictures) > 1e-3


@pytest.mark.parametrize(
    "changes",
    [
        {"guidance_scale": 3.0, "samples": 2},
        {"guidance_scale": 1.0},
        {"identity_strength": 1.0, "adapter_strength": 0.0},
        {"identity_strength": 0.0, "adapter_strength": 1.0},
        {"steps": 5, "control_guidance_start": 0.2, "control_guidance_end": 0.7},
        {"steps": 5, "control_guidance_start": 0.3, "control_guidance_end": 0.9, "sampler": "heun"},
    ],
    ids=str,
)
def test_equals_diffusers_controlnet_and_ip_adapter_fed_with_face_tokens(
    reference, checkpoint, inputs, changes
) -> None:
    """diffusers can express InstantID without masks: IP-Adapter attention, and a ControlNet given face tokens."""
    asked = replace(inputs, **changes)
    pipeline = diffusers_instantid(checkpoint, asked)
    rows = [np.zeros_like(asked.face_embedding), asked.face_embedding][0 if asked.guided else 1 :]
    expected = diffusers_result(
        pipeline,
        asked,
        image=Image.fromarray(asked.control_image),
        ip_adapter_image_embeds=[torch.from_numpy(np.stack(rows))[:, None, None]],  # [G, images, length, width]
        controlnet_conditioning_scale=asked.identity_strength,
        control_guidance_start=asked.control_guidance_start,
        control_guidance_end=asked.control_guidance_end,
    )
    assert relative_error(reference.generate(asked).latents, expected) < 1e-5


def diffusers_instantid(checkpoint: Checkpoint, inputs: ReferenceInputs) -> StableDiffusionXLControlNetPipeline:
    projection = image_projection_from(checkpoint.resampler(FP32).state_dict())
    pipeline = StableDiffusionXLControlNetPipeline(**base_parts(checkpoint), controlnet=checkpoint.identitynet(FP32))
    load_ip_adapter(pipeline.unet, projection, checkpoint, inputs.adapter_strength)
    embeddings = torch.from_numpy(inputs.face_embedding)[None, None].repeat(inputs.samples, 1, 1)
    if inputs.guided:
        embeddings = torch.cat([torch.zeros_like(embeddings), embeddings])
    feed_face_tokens(pipeline.controlnet, projection(embeddings).detach())
    return ready(pipeline, checkpoint)


def load_ip_adapter(unet, projection, checkpoint: Checkpoint, strength: float) -> None:
    weights = iter(checkpoint.face_attention_weights())
    processors = {}
    for name in unet.attn_processors:
        processors[name] = AttnProcessor2_0()
        if name.endswith("attn2.processor"):
            key, value = next(weights)
            processor = IPAdapterAttnProcessor2_0(*key.shape, num_tokens=(checkpoint.dims.face_tokens,), scale=strength)
            processor.load_state_dict({"to_k_ip.0.weight": key, "to_v_ip.0.weight": value})
            processors[name] = processor
    unet.set_attn_processor(processors)
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([projection])
    unet.register_to_config(encoder_hid_dim_type="ip_image_proj")


def feed_face_tokens(controlnet, face_tokens: torch.Tensor) -> None:
    original = controlnet.forward

    def forward(*args, encoder_hidden_states, **options):
        return original(*args, encoder_hidden_states=face_tokens, **options)

    controlnet.forward = forward


def test_image_projection_equals_the_exports(checkpoint) -> None:
    resampler = checkpoint.resampler(FP32)
    embeddings = torch.randn(3, 1, checkpoint.dims.face_embedding_width)
    ours = image_projection_from(resampler.state_dict())(embeddings).detach()
    assert relative_error(ours.numpy(), resampler(embeddings).detach().numpy()) < 1e-6


def test_image_projection_equals_diffusers_loader_at_its_only_depth() -> None:
    """InstantID's own depth 4; the loader is a method but uses nothing of its model."""
    width, queries, tokens, face = 128, 5, 96, 40
    shapes = {"latents": (1, queries, width), "proj_in.weight": (width, face), "proj_out.weight": (tokens, width)}
    shapes |= {"proj_in.bias": (width,), "proj_out.bias": (tokens,)}
    shapes |= {"norm_out.weight": (tokens,), "norm_out.bias": (tokens,)}
    for i in range(4):
        shapes |= {f"layers.{i}.0.norm{k}.{p}": (width,) for k in (1, 2) for p in ("weight", "bias")}
        shapes |= {f"layers.{i}.1.0.{p}": (width,) for p in ("weight", "bias")}
        shapes |= {f"layers.{i}.0.to_q.weight": (192, width), f"layers.{i}.0.to_kv.weight": (384, width)}
        shapes |= {f"layers.{i}.0.to_out.weight": (width, 192)}
        shapes |= {f"layers.{i}.1.1.weight": (4 * width, width), f"layers.{i}.1.3.weight": (width, 4 * width)}
    weights = {name: torch.randn(shape) for name, shape in shapes.items()}
    theirs = UNet2DConditionLoadersMixin()._convert_ip_adapter_image_proj_to_diffusers(weights, low_cpu_mem_usage=False)
    embeddings = torch.randn(2, 1, face)
    ours = image_projection_from(weights)(embeddings).detach()
    assert relative_error(ours.numpy(), theirs(embeddings).detach().numpy()) < 1e-6


def test_the_same_request_gives_the_same_bits(reference, inputs) -> None:
    first, second = (reference.generate(replace(inputs, sampler="dpmpp_2m_sde_karras")) for _ in range(2))
    np.testing.assert_array_equal(first.latents, second.latents)
    np.testing.assert_array_equal(first.images, second.images)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 8},
        {"prompt": "watercolor"},
        {"guidance_scale": 2.0},
        {"identity_strength": 0.4},
        {"adapter_strength": 0.4},
        {"control_guidance_end": 0.5},
        {"face_embedding": np.zeros(128, np.float32)},
        {"control_image": np.zeros((SIDE, SIDE, 3), np.uint8)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_input_matters(reference, inputs, changes) -> None:
    changed = reference.generate(replace(inputs, **changes)).latents
    assert relative_error(changed, reference.generate(inputs).latents) > 1e-3


def test_a_mask_of_ones_is_no_mask_and_one_of_zeros_no_identity(reference, inputs) -> None:
    def latents(asked: ReferenceInputs) -> np.ndarray:
        return reference.generate(asked).latents

    ones, zeros = (np.full((SIDE, SIDE), v, np.float32) for v in (1, 0))
    assert relative_error(latents(replace(inputs, region_mask=ones)), latents(inputs)) < 1e-6
    assert relative_error(latents(replace(inputs, region_mask=zeros)), latents(without_identity(inputs))) < 1e-6


@pytest.mark.parametrize(("height", "width"), [(128, 128), (192, 64)])
def test_a_mask_confines_face_attention_to_its_region(height, width) -> None:
    attn = Attention(query_dim=48, cross_attention_dim=32, heads=3, dim_head=16)
    layer = FaceAttention((torch.randn(48, 32), torch.randn(48, 32)), face_tokens=4)
    rows, columns = height // 16, width // 16
    states, encoder = torch.randn(2, rows * columns, 48), torch.randn(2, 11, 32)
    mask = torch.zeros(height, width)
    mask[32:80, 16:48] = 1.0

    def output(strength: float, region: torch.Tensor | None) -> np.ndarray:
        layer.strength, layer.mask = strength, region
        return layer(attn, states, encoder).detach().numpy().reshape(2, rows, columns, 48)

    inside = np.zeros((rows, columns), bool)
    inside[2:5, 1:3] = True
    text_only, everywhere, masked = output(0.0, None), output(0.7, None), output(0.7, mask)
    np.testing.assert_allclose(masked[:, inside], everywhere[:, inside], atol=1e-6)
    np.testing.assert_allclose(masked[:, ~inside], text_only[:, ~inside], atol=1e-6)
    assert np.abs(everywhere - text_only).min(axis=-1).max() > 0  # the face tokens do act outside without a mask


def test_a_region_mask_keeps_the_seed_but_changes_the_picture(reference, inputs) -> None:
    mask = np.zeros((SIDE, SIDE), np.float32)
    mask[30:90, 40:100] = 1.0
    results = [reference.generate(r).latents for r in (inputs, replace(inputs, region_mask=mask))]
    assert relative_error(*results) > 1e-3
    assert relative_error(results[1], reference.generate(without_identity(inputs)).latents) > 1e-3


def test_samples_share_one_noise_stream(reference, inputs) -> None:
    """Without step noise, the first sample of many is the picture that one sample gives."""
    many = reference.generate(replace(inputs, samples=3))
    one = reference.generate(inputs)
    assert many.images.shape == (3, SIDE, SIDE, 3)
    assert relative_error(many.latents[:1], one.latents) < 1e-5
    assert relative_error(many.latents[1], many.latents[0]) > 0.1


@pytest.mark.parametrize(("sampler", "steps", "calls"), [("euler", 4, 4), ("heun", 4, 7), ("lcm", 5, 5)])
def test_latents_of_every_network_call_are_kept_on_request(reference, inputs, sampler, steps, calls) -> None:
    asked = replace(inputs, sampler=sampler, steps=steps, guidance_scale=1.0)
    result = reference.generate(asked, keep_latents=True)
    assert result.latents_per_call.shape == (calls, 1, 4, SIDE // 8, SIDE // 8)
    np.testing.assert_array_equal(result.latents_per_call[-1], result.latents)
    assert reference.generate(asked).latents_per_call is None


def test_times_are_reported_per_stage(reference, inputs) -> None:
    result = reference.generate(inputs)
    assert list(result.timings_ms) == ["prepare", "denoise", "decode"]
    assert all(ms > 0 for ms in result.timings_ms.values())
    assert 0 < result.overhead_us_per_call < 1e3 * result.timings_ms["denoise"] / inputs.steps


@pytest.mark.parametrize("steps", [4, 7, 50, 99, 100])
def test_every_scheduler_has_as_many_steps_as_asked_for(checkpoint, steps) -> None:
    for sampler in SCHEDULERS:
        calls = 2 * steps - 1 if sampler == "heun" else steps
        assert len(scheduler_for(sampler, steps, checkpoint.scheduler_config).timesteps) == calls


def test_an_unknown_sampler_is_named_with_the_known_ones(reference, inputs) -> None:
    with pytest.raises(RequestError, match=r"'plms'[\s\S]*dpmpp_2m_karras"):
        reference.generate(replace(inputs, sampler="plms"))


def test_inputs_of_the_wrong_shape_are_refused(inputs) -> None:
    with pytest.raises(ValueError, match="control_image"):
        replace(inputs, control_image=inputs.control_image.astype(np.float32))
    with pytest.raises(ValueError, match="region_mask"):
        replace(inputs, region_mask=np.ones((SIDE, SIDE // 2), np.float32))
