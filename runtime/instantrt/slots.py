"""From a prepared request to what the denoise loop's slots are loaded with, and the loop shape that takes them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import numpy as np
import numpy.typing as npt

from instantrt.bundle import Bundle
from instantrt.conditioning.conditions import Conditions, condition_masks
from instantrt.contracts import ModelDims
from instantrt.denoise import LOOP_NETWORKS, LoopShape, SlotInputs
from instantrt.engine import Target
from instantrt.noise import TorchGenerator
from instantrt.prepare import Prepared, StageTimer
from instantrt.samplers import StepTable

Latents = npt.NDArray[np.float32]


def slot_inputs(
    bundle: Bundle, conditions: Conditions, prepared: Prepared, table: StepTable, guidance_batch: int, stage: StageTimer
) -> tuple[list[SlotInputs], tuple[str, ...]]:
    """One slot's inputs for each sample of a request, and warnings about its prompt.

    What networks computed stays in their buffers on the device, and is valid until ``conditions`` is used again.

    Args:
        bundle: whose networks they are.
        conditions: runs the conditioning networks.
        prepared: the request.
        table: its step table.
        guidance_batch: of the loop; at least the request's.
        stage: times the named stages ``text``, ``conditioning`` and ``noise``.
    """
    request = prepared.request
    with stage("text"):
        text = conditions.text(prepared.prompt, prepared.negative_prompt, guidance_batch)
    with stage("conditioning"):
        face_tokens = conditions.face_tokens(prepared.identity.embedding, guidance_batch)
        features = conditions.control_features(prepared.identity.control_image)
        kv = conditions.cross_attention(text.tokens, face_tokens)
        times = conditions.time_embeddings(table, text.pooled, prepared.width, prepared.height)
        masks = condition_masks(bundle.dims, prepared.region, request.identity_strength, request.adapter_strength)
    with stage("noise"):
        latents, noise = request_noise(bundle.dims, prepared, table)
    return [
        SlotInputs(
            table=table,
            latents=latents[sample],
            noise=noise[:, sample],
            time_embeddings_unet=times.unet,
            time_embeddings_identitynet=times.identitynet,
            text_kv_unet=kv.text_kv_unet,
            face_kv_unet=kv.face_kv_unet,
            face_kv_identitynet=kv.face_kv_identitynet,
            control_features=features,
            masks=masks,
        )
        for sample in range(request.samples)
    ], text.warnings


def request_noise(dims: ModelDims, prepared: Prepared, table: StepTable) -> tuple[Latents, Latents]:
    """Initial latents [samples, 4, h, w] and step noise [draws, samples, 4, h, w], drawn as diffusers does."""
    sides = (prepared.height // dims.vae_stride, prepared.width // dims.vae_stride)
    shape = (prepared.request.samples, dims.latent_channels, *sides)
    generator = TorchGenerator(prepared.seed)
    latents = generator.randn(shape) * np.float32(table.init_noise_sigma)
    noise = np.empty((table.noise_draws, *shape), np.float32)
    for draw in noise:
        draw[:] = generator.randn(shape)
    return latents, noise


def first_accepted(target: Target, guidance_batch: int, slots: Iterable[int], height: int, width: int) -> LoopShape:
    """The first loop shape that the target has: the smallest guidance batch, and of the slot counts the first.

    Args:
        target: executes the loop.
        guidance_batch: at least so much.
        slots: slot counts, the most welcome first.
        height: of the pictures, in pixels.
        width: likewise.
    """
    shapes = [LoopShape(s, g, height, width) for g, s in product(range(guidance_batch, 3), slots)]
    # With none, the first one's loading says what there is instead.
    return next((shape for shape in shapes if accepts_loop(target, shape)), shapes[0])


def accepts_loop(target: Target, shape: LoopShape) -> bool:
    """Whether the target has the loop's networks for that shape."""
    return all(target.accepts(network, shape.symbols) for network in LOOP_NETWORKS)
