"""What a caller asks for, checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING

from instantrt.conditioning.styles import NO_STYLE, STYLES
from instantrt.errors import RequestError
from instantrt.samplers import SAMPLERS

if TYPE_CHECKING:
    from instantrt.conditioning.photo import PhotoSource

MAX_SEED = 999_999_999_999_999
RANDOM_SEED = -1


@dataclass(frozen=True)
class Range:
    """Closed range of a request field."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g}-{self.high:g}"


RANGES: dict[str, Range] = {
    "samples": Range(1, 4),
    "steps": Range(4, 100),
    "guidance_scale": Range(1, 25),
    "seed": Range(RANDOM_SEED, MAX_SEED),
    "identity_strength": Range(0, 1),
    "adapter_strength": Range(0, 1),
}
WHOLE_NUMBERS = frozenset({"samples", "steps", "seed"})


@dataclass(frozen=True)
class GenerateRequest:
    """One request for pictures of a person. Ranges are those of the HTTP API.

    Args:
        face: the photo whose person is shown.
        prompt: what to render.
        negative_prompt: what to avoid. None and "" differ as in diffusers: None gives zero embeddings if the
            checkpoint says so.
        style: a preset's name, see :data:`instantrt.conditioning.styles.STYLES`.
        pose: keypoints and face box come from this photo instead of ``face``.
        samples: pictures, 1-4.
        steps: denoising steps, 4-100.
        guidance_scale: 1-25; 1 turns guidance off.
        seed: 0 to 999999999999999, or -1 to draw one; the result says which.
        sampler: a key of :data:`instantrt.samplers.SAMPLERS`.
        identity_strength: IdentityNet's conditioning scale, 0-1.
        adapter_strength: scale of the face attention, 0-1.
        enhance_face_region: confine both to the face box.
        width: picture width in pixels, a multiple of 64; None takes the bundle's.
        height: picture height in pixels, likewise.

    Raises:
        RequestError: a value out of range or of the wrong type, an unknown style or sampler, an empty prompt.
    """

    face: PhotoSource
    prompt: str
    negative_prompt: str | None = None
    style: str | None = None
    pose: PhotoSource | None = None
    samples: int = 1
    steps: int = 10
    guidance_scale: float = 5.0
    seed: int = RANDOM_SEED
    sampler: str = "euler"
    identity_strength: float = 0.8
    adapter_strength: float = 0.8
    enhance_face_region: bool = True
    width: int | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in RANGES.items():
            _check_number(name, getattr(self, name), allowed)
        for name in ("prompt", "negative_prompt"):
            text = getattr(self, name)
            if not isinstance(text, str) and not (text is None and name == "negative_prompt"):
                raise RequestError(f"{name} must be a text", found=type(text).__name__)
        if not self.prompt.strip():
            raise RequestError("the prompt is empty", hint="say what to render, e.g. 'portrait photo of a person'")
        _check_known("style", self.style or NO_STYLE, STYLES)
        _check_known("sampler", self.sampler, SAMPLERS)
        if (self.width is None) != (self.height is None):
            raise RequestError("width and height belong together", found=f"width={self.width}, height={self.height}")


def _check_number(name: str, value: object, allowed: Range) -> None:
    kinds = int if name in WHOLE_NUMBERS else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not isfinite(value):
        raise RequestError(f"{name} must be a {'whole ' if kinds is int else ''}number", found=repr(value))
    if not allowed.low <= value <= allowed.high:
        raise RequestError(f"{name} must be from {allowed.low} to {allowed.high}", found=repr(value))


def _check_known(name: str, value: str, known: object) -> None:
    names = list(known)  # type: ignore[call-overload]
    if value not in names:
        raise RequestError(f"unknown {name} {value!r}", hint=f"use one of: {', '.join(names)}")
