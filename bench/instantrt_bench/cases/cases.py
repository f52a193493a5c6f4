"""The cases of a benchmark of pictures: every photo of a manifest with every prompt, seed and sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from instantrt import GenerateRequest
from instantrt_bench.cases.manifest import Manifest, PhotoEntry, PromptEntry


@dataclass(frozen=True)
class Settings:
    """What all cases share."""

    steps: int = GenerateRequest.steps
    guidance_scale: float = GenerateRequest.guidance_scale
    identity_strength: float = GenerateRequest.identity_strength
    adapter_strength: float = GenerateRequest.adapter_strength
    enhance_face_region: bool = GenerateRequest.enhance_face_region
    size: tuple[int, int] | None = None  # width, height; None takes the bundle's


@dataclass(frozen=True)
class Case:
    """One picture to make. ``parameters`` are plain data, ``id`` is made of those that tell cases apart."""

    photo: PhotoEntry
    photo_file: Path
    prompt: PromptEntry
    seed: int
    sampler: str
    request: GenerateRequest

    @property
    def id(self) -> str:
        """E.g. ``photo=astronaut/prompt=noir/seed=1/sampler=euler``."""
        return f"photo={self.photo.id}/prompt={self.prompt.id}/seed={self.seed}/sampler={self.sampler}"

    @property
    def parameters(self) -> dict[str, Any]:
        """Plain data."""
        request = self.request
        return {
            "photo": self.photo.id,
            "licence": self.photo.licence,
            "prompt_id": self.prompt.id,
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "style": request.style,
            "seed": self.seed,
            "sampler": self.sampler,
            "steps": request.steps,
            "guidance_scale": request.guidance_scale,
            "identity_strength": request.identity_strength,
            "adapter_strength": request.adapter_strength,
            "enhance_face_region": request.enhance_face_region,
        }


def cases_of(manifest: Manifest, seeds: Sequence[int], samplers: Sequence[str], settings: Settings) -> list[Case]:
    """Every combination, each id once.

    Raises:
        RequestError: a setting, seed or sampler that no request can have.
    """
    return [
        Case(
            photo,
            manifest.file(photo.photo),
            prompt,
            seed,
            sampler,
            _request(manifest, photo, prompt, seed, sampler, settings),
        )
        for photo, prompt, seed, sampler in product(
            manifest.photos, manifest.prompts, dict.fromkeys(seeds), dict.fromkeys(samplers)
        )
    ]


def _request(
    manifest: Manifest, photo: PhotoEntry, prompt: PromptEntry, seed: int, sampler: str, settings: Settings
) -> GenerateRequest:
    width, height = settings.size or (None, None)
    return GenerateRequest(
        face=manifest.file(photo.photo),
        prompt=prompt.prompt,
        negative_prompt=prompt.negative_prompt or None,
        style=prompt.style or None,
        pose=manifest.file(photo.pose) if photo.pose else None,
        steps=settings.steps,
        guidance_scale=settings.guidance_scale,
        seed=seed,
        sampler=sampler,
        identity_strength=settings.identity_strength,
        adapter_strength=settings.adapter_strength,
        enhance_face_region=settings.enhance_face_region,
        width=width,
        height=height,
    )
