"""Trains UNet, IdentityNet, adapter and text encoders together on the VAE's latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from instantrt.conditioning.alignment import similarity
from instantrt.conditioning.keypoints import draw_keypoints
from instantrt.conditioning.masks import region_mask
from instantrt_nano.faces.contract_networks import AVERAGE_FACE
from instantrt_nano.maker import SCHEDULER
from instantrt_nano.networks import PICTURE_PX
from instantrt_nano.training.loop import Run, Schedule, processes, train
from instantrt_nano.training.networks import Conditions, NanoNetworks
from instantrt_nano.training.people import PEOPLE, portrait
from instantrt_nano.training.prompts import Prompts, training_prompts

BATCH = 16
MAX_WEIGHT = 40.0  # of a timestep's loss
KEYPOINT_NOISE_PX = 0.4
FOREIGN_SHAPE = 0.6  # share of keypoint pictures in somebody's else shape, or the keypoints give the person away
NO_CONTROL, NO_ADAPTER = 0.12, 0.06
REGION_ONLY = 0.6  # share with the region mask
NET_TOKENS_DROPPED = 0.1
CERTAIN_FROM = 0.6  # the adapter strength from which on the picture is always of the person asked for


class Data:
    """Everything a batch is drawn from."""

    def __init__(self, work: Path) -> None:
        stored = np.load(work / "pictures.npz")
        self.keypoints, self.person, self.style = (stored[name] for name in ("keypoints", "person", "style"))
        latents = torch.from_numpy(np.load(work / "latents.npz")["latents"])
        self.scaling_factor = scaling_factor(work)
        self.latents = latents * self.scaling_factor
        embeddings = np.load(work / "embeddings.npz")
        self.embeddings = np.stack([embeddings[name] for name in PEOPLE])
        self.shapes = [portrait(name).keypoints for name in PEOPLE]
        self.prompts: Prompts = training_prompts()


def scaling_factor(work: Path) -> float:
    """What makes the latents' spread 1."""
    return float(1 / np.load(work / "latents.npz")["latents"].std())


def train_diffusion(work: Path, schedule: Schedule) -> NanoNetworks:
    """From random weights; the result is kept in ``work``/diffusion.pt."""
    data = Data(work)
    torch.manual_seed(0)
    model = NanoNetworks(int(data.prompts.ids.max()) + 1)
    signal = signal_shares()
    weight = (1 / signal).clamp(max=MAX_WEIGHT)
    weight = weight / weight.mean()

    def step(rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        index = rng.integers(0, len(data.latents), BATCH // processes())
        latents, timesteps = data.latents[index], torch.from_numpy(rng.integers(0, len(signal), len(index)))
        noise = torch.randn_like(latents)
        share = signal[timesteps][:, None, None, None]
        noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
        errors = (model(noisy, timesteps, draw_conditions(data, model, index, rng)) - noise).square().mean((1, 2, 3))
        return (errors * weight[timesteps]).mean(), {"error": float(errors.detach().mean())}

    trained: nn.Module = train(Run("diffusion", work, model, list(model.parameters())), schedule, step)
    assert isinstance(trained, NanoNetworks)
    return trained


def signal_shares() -> Tensor:
    """The share of the picture in the noisy latents' variance, by timestep: f32 [1000], from the scheduler config."""
    config: Any = SCHEDULER
    betas = np.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, config["num_train_timesteps"]) ** 2
    return torch.from_numpy(np.cumprod(1 - betas)).float()


def draw_conditions(
    data: Data, model: NanoNetworks, index: npt.NDArray[np.int64], rng: np.random.Generator
) -> Conditions:
    """What the networks are given about the pictures ``index`` [B]: true, but with parts left out or made vague."""
    count = len(index)
    adapter = np.where(rng.random(count) < 0.75, rng.uniform(0.6, 1.1, count), rng.uniform(0, 0.6, count))
    adapter[rng.random(count) < NO_ADAPTER] = 0
    net = np.where(rng.random(count) < 0.85, rng.uniform(0.6, 1.1, count), rng.uniform(0.2, 0.6, count))
    net[rng.random(count) < NO_CONTROL] = 0
    # The weaker the adapter, the more often the picture is of anybody: that makes its strength act gradually.
    anybody = rng.random(count) > adapter / CERTAIN_FROM
    person = np.where(anybody, rng.integers(0, len(PEOPLE), count), data.person[index])
    embeddings = _embeddings(data, person, rng)
    dropped = rng.random(count)
    no_text, no_identity = dropped < 0.12, (dropped < 0.08) | ((dropped >= 0.12) & (dropped < 0.16))
    embeddings[no_identity] = 0
    net_embeddings = np.where((rng.random(count) < NET_TOKENS_DROPPED)[:, None], 0, embeddings).astype(np.float32)
    keypoints = data.keypoints[index]
    text_tokens, pooled = _texts(data, model, index, no_text, rng)
    masked = rng.random(count) < REGION_ONLY
    everywhere = np.ones((PICTURE_PX, PICTURE_PX), np.float32)
    regions = [_region(k, rng) if m else everywhere for k, m in zip(keypoints, masked, strict=True)]
    return Conditions(
        text_tokens,
        pooled,
        torch.from_numpy(embeddings),
        torch.from_numpy(net_embeddings),
        torch.from_numpy(np.stack([_control_image(data, k, rng) for k in keypoints])).permute(0, 3, 1, 2).float() / 255,
        torch.from_numpy(net).float(),
        torch.from_numpy(adapter).float(),
        torch.from_numpy(np.stack(regions)),
    )


def _embeddings(data: Data, person: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """One of each person's, with noise up to about a quarter of the distance between people."""
    chosen = data.embeddings[person, rng.integers(0, data.embeddings.shape[1], len(person))]
    noise = rng.normal(size=chosen.shape) * rng.uniform(0, 0.3, (len(person), 1)) / chosen.shape[1] ** 0.5
    return np.asarray(chosen + noise, np.float32)


def _texts(
    data: Data,
    model: NanoNetworks,
    index: npt.NDArray[np.int64],
    dropped: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Text tokens and pooled; where ``dropped``, half are zero (no negative prompt) and half a negative prompt."""
    prompts = data.prompts
    chosen = np.array([rng.choice(prompts.of_style[style]) for style in data.style[index]])
    zero = dropped & (rng.random(len(index)) < 0.5)
    chosen[dropped] = rng.choice(prompts.negatives, int(dropped.sum()))
    unique, back = np.unique(chosen, return_inverse=True)
    tokens, pooled = model.encode(prompts.ids[:, unique])
    keep = torch.from_numpy(~zero).float()
    return tokens[back] * keep[:, None, None], pooled[back] * keep[:, None]


def _control_image(data: Data, keypoints: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    if rng.random() < FOREIGN_SHAPE:
        shape = data.shapes[rng.integers(len(data.shapes))]
        matrix = similarity(shape, keypoints)
        keypoints = (shape @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    keypoints = keypoints + rng.normal(0, KEYPOINT_NOISE_PX, keypoints.shape).astype(np.float32)
    return draw_keypoints(keypoints, PICTURE_PX, PICTURE_PX)


def _region(keypoints: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A face box around the keypoints as the detector would draw it, give or take a tenth."""
    average = np.array(AVERAGE_FACE)
    matrix: Any = similarity(average, keypoints)
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]]) @ matrix[:, :2].T + matrix[:, 2]
    middle, side = corners.mean(0), float(np.hypot(*matrix[:, 0]))
    middle, half = middle + rng.normal(0, 0.03, 2) * side, side / 2 * rng.uniform(0.9, 1.1, 2)
    return region_mask(np.concatenate([middle - half, middle + half]).astype(np.float32), PICTURE_PX, PICTURE_PX)
