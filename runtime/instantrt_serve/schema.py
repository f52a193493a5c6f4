"""The body of a request: its fields, held to the runtime's own ranges and defaults."""

from __future__ import annotations

import secrets
from functools import cache
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from instantrt.conditioning.styles import NO_STYLE, STYLES
from instantrt.errors import RequestError
from instantrt.plain import MAX_TEXT, shown
from instantrt.request import MAX_SEED, RANDOM_SEED, RANGES, SAMPLER_NAMES, SIDE_MULTIPLE, GenerateRequest, check_known
from instantrt_serve.errors import ApiError
from instantrt_serve.messages import PictureFormat

RUNTIME_NAMES = {"num_inference_steps": "steps"}
"""Fields of :class:`GenerateRequest` that are called otherwise in the API."""
NOT_OF_THE_RUNTIME = {"face_image", "pose_image", "base64", "format", "preview_calls"}
MAX_PREVIEW_CALLS = 100

EXAMPLE_PHOTO = "/9j/4AAQSkZJRgABAQ..."
EXAMPLE: dict[str, JsonValue] = {
    "prompt": "portrait photo of a person in a garden, soft light",
    "face_image": EXAMPLE_PHOTO,
    "negative_prompt": "lowquality, badquality, sketches",
    "style": "Vibrant Color",
    "num_inference_steps": 10,
    "seed": 7,
}


def _whole(value: object) -> object:
    """JSON has one kind of number: 10.0 is the whole number 10."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _known_style(name: str | None) -> str | None:
    return None if name is None else _known("style", name, tuple(STYLES))


def _known_sampler(name: str) -> str:
    return _known("sampler", name, SAMPLER_NAMES)


def _known(field: str, name: str, names: tuple[str, ...]) -> str:
    try:
        check_known(field, name, names)
    except RequestError as error:
        raise ApiError("request", error.what, found=error.found, hint=error.hint, field=field) from None
    return name


def _number(name: str, description: str, **more: Any) -> Any:
    """A field with the runtime's default and range."""
    allowed, default = RANGES[name], getattr(GenerateRequest, name)
    whole = isinstance(default, int) or default is None
    low, high = (int(allowed.low), int(allowed.high)) if whole else (allowed.low, allowed.high)
    return Field(default, ge=low, le=high, description=description, **more)


Whole = Annotated[int, BeforeValidator(_whole)]
Style = Annotated[str | None, AfterValidator(_known_style)]
Sampler = Annotated[str, AfterValidator(_known_sampler)]


class PictureRequest(BaseModel):
    """What to render, and how."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        json_schema_extra={
            "examples": [EXAMPLE],
            "dependentRequired": {"width": ["height"], "height": ["width"]},
        },
    )

    prompt: str = Field(min_length=1, max_length=MAX_TEXT, pattern=r"\S", description="what to render")
    face_image: str = Field(
        min_length=1,
        description="photo of the identity: base64, a data URL, or an https address if the server fetches such",
    )
    pose_image: str | None = Field(None, min_length=1, description="keypoints and box come from this photo instead")
    negative_prompt: str | None = Field(None, max_length=MAX_TEXT, description="what to avoid")
    style: Style = Field(None, description="a preset's name", json_schema_extra={"enum": [*STYLES, None]})
    samples: Whole = _number("samples", "pictures")
    num_inference_steps: Whole = _number("steps", "denoising steps")
    guidance_scale: float = _number("guidance_scale", "1 turns guidance off")
    seed: Whole = _number("seed", "-1 draws one; the answer tells which")
    identity_strength: float = _number("identity_strength", "IdentityNet's conditioning scale")
    adapter_strength: float = _number("adapter_strength", "scale of the face attention")
    enhance_face_region: bool = Field(GenerateRequest.enhance_face_region, description="confine both to the face box")
    base64: bool = Field(False, description="answer with base64 text instead of bytes")

    sampler: Sampler = Field(
        GenerateRequest.sampler, description="extension: the sampler", json_schema_extra={"enum": [*SAMPLER_NAMES]}
    )
    control_guidance_start: float = _number("control_guidance_start", "extension: share of calls before IdentityNet")
    control_guidance_end: float = _number("control_guidance_end", "extension: share of calls after which it stops")
    width: Whole | None = _number("width", "extension: picture width in pixels", multiple_of=SIDE_MULTIPLE)
    height: Whole | None = _number("height", "extension: picture height in pixels", multiple_of=SIDE_MULTIPLE)
    format: PictureFormat = Field("jpeg", description="extension: of the picture")

    def runtime_fields(self) -> dict[str, str | int | float | bool | None]:
        """Fields of :class:`GenerateRequest` but the photos, with a seed drawn if none was given.

        Raises:
            ApiError: fields that do not go together.
        """
        values = self.model_dump(exclude=NOT_OF_THE_RUNTIME)
        fields = {RUNTIME_NAMES.get(name, name): value for name, value in values.items()}
        try:
            GenerateRequest(face=b"", **fields)
        except RequestError as error:
            raise ApiError("request", error.what, found=error.found, hint=error.hint) from None
        if fields["seed"] == RANDOM_SEED:
            fields["seed"] = secrets.randbelow(MAX_SEED + 1)
        return fields


TEXT_FIELDS = {"prompt", "face_image", "pose_image", "negative_prompt", "style", "sampler", "format"}
"""In a form these are taken as they are; the others are written as in JSON: ``10``, ``0.8``, ``true``."""


class JobRequest(PictureRequest):
    """A request whose answer is fetched later."""

    preview_calls: Whole = Field(
        0, ge=0, le=MAX_PREVIEW_CALLS, description="a small preview after every so many network calls; 0 sends none"
    )


@cache
def options() -> dict[str, Any]:
    """What the fields may be, for clients that show a form: presets, samplers, ranges and defaults."""
    properties = JobRequest.model_json_schema()["properties"]
    kept = ("minimum", "maximum", "default")
    limits = {name: {key: about[key] for key in kept if key in about} for name, about in properties.items()}
    return {
        "styles": list(STYLES),
        "no_style": NO_STYLE,
        "samplers": list(SAMPLER_NAMES),
        "fields": {name: found for name, found in limits.items() if found},
    }


def request_error(error: ValidationError) -> ApiError:
    """The first thing that is wrong with a body."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return ApiError("request", "the body is not JSON", found=first["msg"], hint="send one JSON object as UTF-8")
    field = str(first["loc"][0]) if first["loc"] else None
    return ApiError("request", _what(field, first), found=_found(first), hint=_hint(field, first["type"]), field=field)


def _what(field: str | None, first: ErrorDetails) -> str:
    if first["type"] == "missing":
        return f"{field} is missing"
    if first["type"] == "extra_forbidden":
        return f"there is no field {shown(field)}"
    message = first["msg"]
    return f"{field or 'the body'} does not fit: {message[:1].lower()}{message[1:]}"


def _found(first: ErrorDetails) -> str | None:
    return None if first["type"] in ("missing", "extra_forbidden") else shown(first["input"])


def _hint(field: str | None, kind: str) -> str:
    if kind == "extra_forbidden" or field is None:
        return f"fields are: {', '.join(JobRequest.model_fields)}"
    about = RANGES.get(RUNTIME_NAMES.get(field, field))
    return f"give a value from {about}" if about else "see /openapi.json for what it may be"
