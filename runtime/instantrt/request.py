"""What a caller asks for, checked before any work is done. Defaults, ranges and names of samplers are said here alone.

Imports nothing heavy, so that command lines and benchmarks can take them from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from instantrt.conditioning.styles import NO_STYLE, STYLES
from instantrt.errors import RequestError
from instantrt.plain import Range, plain_text, real_number, shown, truth_value, whole_number

if TYPE_CHECKING:
    from instantrt.conditioning.photo import PhotoSource

SamplerName = Literal[
    "euler",
    "euler_ancestral",
    "ddim",
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_2m_sde_karras",
    "heun",
    "lcm",
    "euler_trailing",
]
SAMPLER_NAMES: tuple[SamplerName, ...] = get_args(SamplerName)

MAX_SEED = 999_999_999_999_999
RANDOM_SEED = -1
SIDE_MULTIPLE = 64  # of widths and heights in pixels
MAX_SIDE_PX = 16_384  # a bundle allows much less; beyond it no picture format helps

RANGES: dict[str, Range] = {
    "samples": Range(1, 4),
    "steps": Range(4, 100),
    "guidance_scale": Range(1, 25),
    "seed": Range(RANDOM_SEED, MAX_SEED),
    "identity_strength": Range(0, 1),
    "adapter_strength": Range(0, 1),
    "control_guidance_start": Range(0, 1),
    "control_guidance_end": Range(0, 1),
    "width": Range(SIDE_MULTIPLE, MAX_SIDE_PX),
    "height": Range(SIDE_MULTIPLE, MAX_SIDE_PX),
}
WHOLE_NUMBERS = frozenset({"samples", "steps", "seed", "width", "height"})
TEXTS = ("prompt", "negative_prompt", "style", "sampler")
OPTIONAL = frozenset({"negative_prompt", "style", "width", "height"})  # None says something of its own


@dataclass(frozen=True)
class GenerateRequest:
    """One request for pictures of a person. Ranges are those of the HTTP API, see :data:`RANGES`.

    Numbers of every kind are taken where they are exact, and kept as plain ints and floats.

    Args:
        face: the photo whose person is shown.
        prompt: what to render.
        negative_prompt: what to avoid. None and "" differ as in diffusers: None gives zero embeddings if the
            checkpoint says so.
        style: a preset's name, see :data:`instantrt.conditioning.styles.STYLES`.
        pose: keypoints and face box come from this photo instead of ``face``.
        samples: pictures.
        steps: denoising steps.
        guidance_scale: 1 turns guidance off.
        seed: -1 draws one; the result says which.
        sampler: one of :data:`SAMPLER_NAMES`.
        identity_strength: IdentityNet's conditioning scale.
        adapter_strength: scale of the face attention.
        enhance_face_region: confine both to the face box.
        control_guidance_start: share of the network calls after which IdentityNet starts, as in diffusers.
        control_guidance_end: share of the network calls after which it stops.
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
    control_guidance_start: float = 0.0
    control_guidance_end: float = 1.0
    width: int | None = None
    height: int | None = None

    def __post_init__(self) -> None:
        if (self.width is None) != (self.height is None):
            found = f"width={shown(self.width)}, height={shown(self.height)}"
            raise RequestError("width and height belong together", found=found, hint="give both or neither")
        for name in RANGES:
            self._keep(name, plain_number)
        for name in TEXTS:
            self._keep(name, plain_text)
        self._keep("enhance_face_region", truth_value)
        if not self.prompt.strip():
            raise RequestError(
                "the prompt is empty", found=repr(self.prompt), hint="say what to render, e.g. 'portrait photo'"
            )
        check_known("style", NO_STYLE if self.style is None else self.style, STYLES)
        check_known("sampler", self.sampler, SAMPLER_NAMES)
        check_window(self.control_guidance_start, self.control_guidance_end)
        if self.width is not None and self.height is not None:
            check_sides(self.width, self.height)

    def _keep(self, name: str, plain: Callable[[str, object], object]) -> None:
        value = getattr(self, name)
        if value is not None or name not in OPTIONAL:
            object.__setattr__(self, name, plain(name, value))  # the class is frozen for everybody else

    @property
    def guidance_batch(self) -> int:
        """G: 2 with classifier-free guidance (negative, positive), 1 without."""
        return 2 if self.guidance_scale > 1 else 1


def plain_number(name: str, value: object) -> float:
    """``value`` as an int or float, as the field ``name`` has it.

    Raises:
        RequestError: it is no such number, or out of the field's range.
    """
    return (whole_number if name in WHOLE_NUMBERS else real_number)(name, value, RANGES[name])


def check_known(name: str, value: str, known: Iterable[str]) -> None:
    """Raise :class:`RequestError` unless ``value`` is one of the ``known`` names."""
    names = list(known)
    if value not in names:
        raise RequestError(f"unknown {name}", found=shown(value), hint=f"use one of: {', '.join(names)}")


def check_window(start: float, end: float) -> None:
    """diffusers' rule for its ControlNet pipelines: 0 <= start < end <= 1."""
    if plain_number("control_guidance_start", start) >= plain_number("control_guidance_end", end):
        found = f"control_guidance_start={start}, control_guidance_end={end}"
        raise RequestError(
            "control_guidance_start must be below control_guidance_end", found=found, hint="e.g. 0 and 1"
        )


def check_sides(width: int, height: int) -> None:
    """Raise :class:`RequestError` unless both sides are multiples of 64 pixels, whatever a bundle allows of them."""
    if width % SIDE_MULTIPLE or height % SIDE_MULTIPLE or min(width, height) <= 0:
        nearest = "x".join(str(max(1, round(side / SIDE_MULTIPLE)) * SIDE_MULTIPLE) for side in (width, height))
        what = f"width and height must be multiples of {SIDE_MULTIPLE}"
        raise RequestError(what, found=f"{width}x{height}", hint=f"use {nearest}")
