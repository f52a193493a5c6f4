"""What the clients of a load test ask for: bodies of `POST /v1/instantid`, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from instantrt.conditioning.styles import STYLES
from instantrt.request import MAX_SEED, SAMPLER_NAMES

PROMPTS = ("portrait photo, natural light", "oil painting of a person", "portrait, neon lights", "a person in the snow")
STEPS = (4, 4, 6, 8, 10, 10, 12, 20, 30)  # most people ask for few
SAMPLES = (1, 1, 1, 1, 2, 3, 4)
GUIDANCE = (1.0, 3.0, 3.0, 5.0)
FAST_STEPS = 6  # a request of at most so many steps and one picture is short


@dataclass(frozen=True)
class Asked:
    """One request of a load test.

    Args:
        id: its number as text.
        client: which of the clients sends it.
        account: whose key is sent with it.
        photo: the photo's name.
        body: the body's other fields.
        cancel_after_s: the client goes away after so many seconds; None waits for the answer.
        twice: submitted as a job of v2, and once more with the same idempotency key.
    """

    id: str
    client: int
    account: int
    photo: str
    body: dict[str, Any]
    cancel_after_s: float | None = None
    twice: bool = False

    @property
    def is_short(self) -> bool:
        """Whether it should not have to wait for long ones."""
        return bool(self.body["num_inference_steps"] <= FAST_STEPS and self.body["samples"] == 1)


@dataclass(frozen=True)
class Mix:
    """How many requests, from whom, of which photos and sizes.

    Args:
        requests: how many.
        clients: how many send at a time.
        accounts: how many keys they share.
        photos: names to draw from.
        sizes: width and height in pixels, to draw from.
        cancelled: share of requests whose client goes away.
        twice: share of requests that are submitted as jobs, twice each.
        seed: of the draw.
    """

    requests: int
    clients: int
    accounts: int
    photos: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    cancelled: float = 0.04
    twice: float = 0.1
    seed: int = 0

    def draw(self) -> list[Asked]:
        """The same requests for the same numbers."""
        chance = random.Random(self.seed)  # noqa: S311 - a workload, no secret
        return [self._asked(number, chance) for number in range(self.requests)]

    def _asked(self, number: int, chance: random.Random) -> Asked:
        client = number % self.clients
        kind = chance.random()
        cancel_after_s = chance.uniform(0.0, 2.0) if kind < self.cancelled else None
        twice = self.cancelled <= kind < self.cancelled + self.twice
        photo, body = chance.choice(self.photos), draw_body(chance, self.sizes)
        return Asked(str(number), client, client % self.accounts, photo, body, cancel_after_s, twice)


def draw_body(chance: random.Random, sizes: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Fields of one request but its photo, a seed of its own among them."""
    width, height = chance.choice(sizes)
    return {
        "prompt": chance.choice(PROMPTS),
        "negative_prompt": chance.choice([None, "blurry, low quality"]),
        "style": chance.choice(list(STYLES)),
        "samples": chance.choice(SAMPLES),
        "num_inference_steps": chance.choice(STEPS),
        "guidance_scale": chance.choice(GUIDANCE),
        "seed": chance.randrange(MAX_SEED + 1),
        "identity_strength": chance.choice([0.4, 0.8, 1.0]),
        "adapter_strength": chance.choice([0.4, 0.8]),
        "enhance_face_region": chance.random() < 0.8,
        "sampler": chance.choice(SAMPLER_NAMES),
        "width": width,
        "height": height,
        "base64": True,
    }
