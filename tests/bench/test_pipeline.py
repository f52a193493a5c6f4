"""The whole pipeline: the runtime's picture is the reference's, over steps, guidance, samples, masks and samplers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
from transformers import CLIPTokenizer

from instantrt import GenerateRequest, InstantID
from instantrt.samplers import SAMPLERS
from instantrt_bench.fidelity.pair import compare
from instantrt_bench.reference.pipeline import Reference
from instantrt_bench.results.metrics import psnr_db
from instantrt_export.checkpoint import Checkpoint
from randomness import fresh_rng

LATENTS_TOLERANCE = 1e-3  # relative error
MIN_PSNR_DB = 50.0

FULL_MATRIX = list(product((4, 10, 30, 100), (1.0, 5.0), (1, 4), (True, False)))
# Every value of every axis, and every pair of values of two axes but those with 100 steps.
COVERING = [
    (4, 1.0, 1, True),
    (4, 5.0, 4, False),
    (10, 1.0, 4, True),
    (10, 5.0, 1, False),
    (30, 5.0, 4, True),
    (30, 1.0, 1, False),
    (100, 5.0, 1, True),
]


@pytest.fixture(scope="module")
def runtime(nano_bundle: Path) -> Iterator[InstantID]:
    with InstantID.load(nano_bundle, threads=1) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def reference(nano_checkpoint: Path) -> Reference:
    return Reference.load(Checkpoint.open(nano_checkpoint), threads=1)


@pytest.fixture
def request_with(astronaut: npt.NDArray[np.uint8]) -> Any:
    seed = int(fresh_rng().integers(10**15))

    def make(**fields: Any) -> GenerateRequest:
        defaults = {"face": astronaut, "prompt": "film noir portrait of a person", "negative_prompt": "blurry"}
        return GenerateRequest(**{**defaults, "seed": seed, **fields})

    return make


def assert_same_picture(runtime: InstantID, reference: Reference, request: GenerateRequest) -> None:
    found = compare(runtime, reference, request)
    summary = f"{found.latents_error:.1e} relative, {found.psnr_db:.1f} dB with seed {found.seed}"
    assert found.latents_error <= LATENTS_TOLERANCE, summary
    assert found.psnr_db >= MIN_PSNR_DB, summary


@pytest.mark.parametrize(("steps", "guidance", "samples", "mask"), COVERING)
def test_matrix(
    runtime: InstantID,
    reference: Reference,
    request_with: Any,
    steps: int,
    guidance: float,
    samples: int,
    mask: bool,
) -> None:
    request = request_with(steps=steps, guidance_scale=guidance, samples=samples, enhance_face_region=mask)
    assert_same_picture(runtime, reference, request)


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "guidance", "samples", "mask"), [m for m in FULL_MATRIX if m not in COVERING])
def test_full_matrix(
    runtime: InstantID,
    reference: Reference,
    request_with: Any,
    steps: int,
    guidance: float,
    samples: int,
    mask: bool,
) -> None:
    request = request_with(steps=steps, guidance_scale=guidance, samples=samples, enhance_face_region=mask)
    assert_same_picture(runtime, reference, request)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler(runtime: InstantID, reference: Reference, request_with: Any, sampler: str) -> None:
    assert_same_picture(runtime, reference, request_with(sampler=sampler))


@pytest.mark.parametrize(("identity", "adapter"), [(0.0, 0.8), (0.8, 0.0), (1.0, 1.0), (0.0, 1.0), (1.0, 0.0)])
def test_strengths(
    runtime: InstantID, reference: Reference, request_with: Any, identity: float, adapter: float
) -> None:
    assert_same_picture(runtime, reference, request_with(identity_strength=identity, adapter_strength=adapter))


@pytest.mark.parametrize("negative_prompt", [None, ""])
def test_no_negative_prompt_and_an_empty_one_differ_as_in_diffusers(
    runtime: InstantID, reference: Reference, request_with: Any, negative_prompt: str | None
) -> None:
    assert_same_picture(runtime, reference, request_with(negative_prompt=negative_prompt))


def test_a_style_a_pose_photo_and_another_size(runtime: InstantID, reference: Reference, request_with: Any) -> None:
    base = request_with()
    pose = np.ascontiguousarray(np.pad(base.face, ((0, 0), (150, 0), (0, 0)))[:, :512])
    request = replace(base, style="Vibrant Color", pose=pose, width=192, height=128)
    assert_same_picture(runtime, reference, request)
    keypoints = {name: runtime.prepare(r).identity.keypoints for name, r in {"pose": request, "photo": base}.items()}
    assert np.abs(keypoints["pose"] - keypoints["photo"]).max() > 5


@pytest.fixture(scope="module")
def text_to_image(nano_checkpoint: Path) -> StableDiffusionXLPipeline:
    """diffusers' own pipeline on the same weights; it knows neither IdentityNet nor face attention."""
    checkpoint = Checkpoint.open(nano_checkpoint)
    modules = ("unet", "vae", "text_encoder", "text_encoder_2")
    pipeline = StableDiffusionXLPipeline(
        **{name: getattr(checkpoint, name)(torch.float32) for name in modules},
        tokenizer=CLIPTokenizer.from_pretrained(checkpoint.tokenizer_dir),
        tokenizer_2=CLIPTokenizer.from_pretrained(checkpoint.tokenizer_2_dir),
        scheduler=EulerDiscreteScheduler.from_config(checkpoint.scheduler_config),
        add_watermarker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_strength_zero_is_the_picture_without_identitynet_and_face_attention(
    runtime: InstantID, text_to_image: StableDiffusionXLPipeline, request_with: Any
) -> None:
    request = request_with(identity_strength=0.0, adapter_strength=0.0)
    plain = text_to_image(
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        num_inference_steps=request.steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        height=128,
        width=128,
        output_type="np",
    ).images
    assert psnr_db(runtime.run(request).pixels, np.uint8((plain * 255).round())) >= MIN_PSNR_DB


def test_each_option_changes_the_picture(runtime: InstantID, request_with: Any) -> None:
    """Guards the comparisons above: an option that did nothing would agree with everything."""
    base = runtime.run(request_with()).latents
    changes: list[dict[str, Any]] = [
        {"identity_strength": 0.0},
        {"adapter_strength": 0.0},
        {"enhance_face_region": False},
        {"guidance_scale": 1.0},
        {"guidance_scale": 6.0},
        {"prompt": "watercolor"},
        {"negative_prompt": None},
        {"style": "Neon"},
        {"sampler": "dpmpp_2m"},
        {"steps": 11},
        {"seed": 1},
    ]
    for change in changes:
        moved = np.linalg.norm(runtime.run(request_with(**change)).latents - base) / np.linalg.norm(base)
        assert moved > 1e-2, change
