"""Trains the VAE, then its decoder alone on the encoder's final latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instantrt_nano import networks
from instantrt_nano.faces.face_api import FACE_PX, FaceResNet
from instantrt_nano.networks import PICTURE_PX
from instantrt_nano.training.faces import crop_transform, torch_encoder
from instantrt_nano.training.loop import Run, Schedule, processes, train

BATCH = 4
UNSCALED = 1.0  # the factor is known when all pictures are encoded
COMPARED_BLOCKS = (0, 2, 5, 9)  # of the face encoder, whose features the two pictures should share


@dataclass(frozen=True)
class Weights:
    """Of the parts of the loss that differ between the two stages."""

    embedding: float
    kl: float


class PictureLoss(nn.Module):
    """How far a decoded picture is from the original: pixels, edges, and above all the face.

    Args:
        encoder: the frozen face encoder.
        weights: see there.
    """

    def __init__(self, encoder: FaceResNet, weights: Weights) -> None:
        super().__init__()
        self.encoder, self.weights = encoder, weights

    def forward(self, decoded: Tensor, original: Tensor, crops: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss and what to print.

        Args:
            decoded: f32 [B, 3, H, W] in -1..1.
            original: likewise.
            crops: f32 [B, 2, 3], from :func:`crop_transform`.
        """
        difference = decoded - original
        edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        grid = F.affine_grid(crops, [len(crops), 3, FACE_PX, FACE_PX], align_corners=False)
        faces = [F.grid_sample((x + 1) * 127.5, grid, align_corners=False) for x in (decoded, original)]
        face_pixels = (faces[0] - faces[1]).abs().mean() / 127.5
        embedding, features = self._described(faces[0])
        with torch.no_grad():
            wanted, wanted_features = self._described(faces[1])
        apart = (embedding - wanted).square().sum(1).mean()
        unlike = sum(
            ((a - b).abs().mean() / (b.abs().mean() + 1e-6) for a, b in zip(features, wanted_features, strict=True)),
            torch.zeros(()),
        )
        squares = difference.square().mean()
        pixels = difference.abs().mean() + 2 * squares + 0.5 * edges + 0.6 * face_pixels
        shown = {
            "psnr_db": float(10 * torch.log10(4 / squares.detach())),
            "embedding_distance": float(apart.detach().sqrt()),
        }
        return pixels + 0.1 * unlike + self.weights.embedding * apart, shown

    def _described(self, faces: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = F.max_pool2d(F.relu(self.encoder.stem((faces - self.encoder.mean) / 255)), 3, 2)
        features = []
        for i, block in enumerate(self.encoder.blocks):
            x = block(x)
            if i in COMPARED_BLOCKS:
                features.append(x)
        return self.encoder.head(x.mean((2, 3))), features


def _loss(faces: Path, weights: Weights) -> PictureLoss:
    loss: PictureLoss = _fast(PictureLoss(torch_encoder(faces), weights))
    return loss


def _fast(module: Any) -> Any:
    """``module`` with its weights laid out in memory as these sizes run fastest on a CPU: 2-3 times as fast as NCHW."""
    return module.to(memory_format=torch.channels_last)


class Pictures:
    """The training pictures as batches of tensors."""

    def __init__(self, work: Path) -> None:
        data = np.load(work / "pictures.npz")
        self._pictures = data["pictures"]
        self.crops = torch.stack([crop_transform(k, PICTURE_PX) for k in data["keypoints"]])

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: np.ndarray[Any, np.dtype[np.int64]]) -> Tensor:
        """f32 [B, 3, H, W] in -1..1."""
        return (
            torch.from_numpy(self._pictures[index]).permute(0, 3, 1, 2).float() / 127.5 - 1
        )  # laid out as _fast wants it


def train_vae(work: Path, faces: Path, schedule: Schedule) -> nn.Module:
    """Encoder and decoder, from random weights; the result is kept in ``work``/vae.pt."""
    pictures, loss = Pictures(work), _loss(faces, Weights(embedding=0.15, kl=1e-5))
    torch.manual_seed(0)
    model: Any = _fast(networks.new_vae(UNSCALED))

    def step(rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        index = rng.integers(0, len(pictures), BATCH // processes())
        original = pictures[index]
        latents = model.encode(original).latent_dist
        value, shown = loss(model.decode(latents.sample()).sample, original, pictures.crops[index])
        kl = (latents.mean.square() + latents.logvar.exp() - 1 - latents.logvar).mean() / 2
        return value + loss.weights.kl * kl, shown

    return train(Run("vae", work, model, list(model.parameters())), schedule, step)


def train_decoder(work: Path, faces: Path, schedule: Schedule) -> nn.Module:
    """The decoder alone, so that what the diffusion networks have learned stays valid; kept in ``work``/decoder.pt."""
    pictures, loss_of = Pictures(work), _loss(faces, Weights(embedding=0.5, kl=0))
    latents = torch.from_numpy(np.load(work / "latents.npz")["latents"])
    spread = latents.std()
    model: Any = _fast(networks.new_vae(UNSCALED))
    model.load_state_dict(torch.load(work / "vae.pt", weights_only=True)["average"])
    trained = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]

    def step(rng: np.random.Generator) -> tuple[Tensor, dict[str, float]]:
        index = rng.integers(0, len(pictures), BATCH // processes())
        chosen = latents[index]
        noisy = chosen + torch.randn_like(chosen) * spread * rng.uniform(0, 0.1)  # as the diffusion's are never exact
        value, shown = loss_of(model.decode(noisy).sample, pictures[index], pictures.crops[index])
        return value, shown

    return train(Run("decoder", work, model, trained), schedule, step)


def encode_all(work: Path) -> None:
    """Writes ``work``/latents.npz: the mean latents f32 [N, 4, h, w] of all pictures, not scaled."""
    pictures, model = Pictures(work), _fast(networks.new_vae(UNSCALED))
    model.load_state_dict(torch.load(work / "vae.pt", weights_only=True)["average"])
    vae: Any = model.eval()
    with torch.no_grad():
        parts = [
            vae.encode(pictures[np.arange(i, min(i + 32, len(pictures)))]).latent_dist.mean
            for i in range(0, len(pictures), 32)
        ]
    np.savez(work / "latents.npz", latents=torch.cat(parts).numpy())
