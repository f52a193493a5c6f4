"""Scenarios are data: what is asked of every system alike.

Sets of them are JSON files in ``scenarios/``, or the user's: ``{"scenarios": [{"steps": 30}, {"samples": 4}]}``.
What an entry leaves out is :class:`Scenario`'s default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from instantrt import GenerateRequest
from instantrt.errors import InstantRTError, RequestError
from instantrt_bench.cases.portrait import portrait_jpeg

SETS = files("instantrt_bench.latency") / "scenarios"
PROMPT = "film noir portrait of a person"
SEED = 42


@dataclass(frozen=True)
class Scenario:
    """One kind of request, end to end: photo bytes in, JPEG files out."""

    steps: int = GenerateRequest.steps
    samples: int = GenerateRequest.samples
    guidance_scale: float = GenerateRequest.guidance_scale
    width: int = 128
    height: int = 128
    sampler: str = GenerateRequest.sampler

    def __post_init__(self) -> None:
        self.request(b"", "checked")  # raises RequestError for values out of range

    @property
    def id(self) -> str:
        """The name that all systems and all result files share."""
        return (
            f"e2e/steps={self.steps}/samples={self.samples}/guidance={self.guidance_scale:g}/"
            f"size={self.width}x{self.height}/sampler={self.sampler}"
        )

    def request(self, photo: bytes, prompt: str, seed: int = SEED) -> GenerateRequest:
        """The request to the runtime."""
        return GenerateRequest(face=photo, prompt=prompt, seed=seed, **asdict(self))

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Scenario:
        """From an entry of a set.

        Raises:
            RequestError: an unknown key, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = [name for name in data if name not in known]
        if unknown:
            hint = f"a scenario's keys are {', '.join(known)}"
            raise RequestError("a scenario has an unknown key", found=repr(unknown[0]), hint=hint)
        return cls(**data)


def load_scenarios(name: str, only: str | None = None) -> list[Scenario]:
    """The scenarios of a set by its name, or of a file; with ``only``, those whose id contains it.

    Raises:
        RequestError: no such set, an unreadable file, a wrong entry, or none that ``only`` fits.
    """
    shipped = sorted(entry.name.removesuffix(".json") for entry in SETS.iterdir() if entry.name.endswith(".json"))
    try:
        text = (SETS / f"{name}.json").read_text("utf-8") if name in shipped else Path(name).read_text("utf-8")
    except OSError as error:
        raise RequestError(
            f"no scenarios {name!r}", found=error.strerror, hint=f"a JSON file, or one of: {', '.join(shipped)}"
        ) from error
    try:
        scenarios = [Scenario.from_json(entry) for entry in json.loads(text)["scenarios"]]
    except InstantRTError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        hint = 'write {"scenarios": [{"steps": 30}]}'
        found = f"{type(error).__name__}: {error}"
        raise RequestError(f"{name} is not a set of scenarios", found=found, hint=hint) from error
    chosen = [scenario for scenario in scenarios if only is None or only in scenario.id]
    if not chosen:
        raise RequestError(
            f"{name} has no scenario whose id contains {only!r}" if scenarios else f"{name} has no scenarios",
            found="; ".join(scenario.id for scenario in scenarios) or "an empty list",
            hint="name one with --only, or add scenarios to the file",
        )
    if len({scenario.id for scenario in chosen}) < len(chosen):
        ids = ", ".join(sorted({s.id for s in chosen if [c.id for c in chosen].count(s.id) > 1}))
        raise RequestError(f"{name} has the same scenario twice", found=ids, hint="remove one of them")
    return chosen


def varied(prompt: str, variant: int) -> str:
    """Another prompt for every variant but 0; the encoders pad all to the same length, so the work is the same."""
    return f"{prompt}, take {variant}" if variant else prompt


class Requests:
    """Requests of equal work of which none has the photo or the prompt of another, so that nothing remembered helps.

    Args:
        photo: bytes of a photo file; None takes a public-domain portrait.
        prompt: the base of all prompts.
        seed: of all requests.
    """

    def __init__(self, photo: bytes | None = None, prompt: str = PROMPT, seed: int = SEED) -> None:
        self._photo, self._prompt, self._seed = photo, prompt, seed
        self._variant = 0

    def plain(self, scenario: Scenario) -> GenerateRequest:
        """The request with the photo and the prompt as they are."""
        return scenario.request(portrait_jpeg(0, self._photo), self._prompt, self._seed)

    def next(self, scenario: Scenario) -> GenerateRequest:
        """A request with a photo and a prompt that none before had."""
        self._variant += 1
        photo, prompt = portrait_jpeg(self._variant, self._photo), varied(self._prompt, self._variant)
        return scenario.request(photo, prompt, self._seed)
