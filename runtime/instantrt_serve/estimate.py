"""How long a job will take the device, from what was measured: for the queue's length, deadlines and Retry-After."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from instantrt.request import GenerateRequest
from instantrt_serve.messages import Ready

TWO_CALLS_A_STEP = frozenset({"heun"})


@dataclass(frozen=True)
class Work:
    """What a job asks of the device: so many pictures of so many network calls each."""

    width: int
    height: int
    guidance_batch: int
    calls: int
    pictures: int

    @classmethod
    def of_fields(cls, fields: Mapping[str, object], default_size: tuple[int, int]) -> Work:
        """What a request asks for.

        Args:
            fields: of :class:`instantrt.GenerateRequest`; those that are missing have its defaults. Ones that are no
                numbers count as their defaults too: they are refused elsewhere.
            default_size: of the bundle, (width, height) in pixels.
        """

        def number(name: str, default: float) -> float:
            value = fields.get(name, default)
            return value if isinstance(value, int | float) else default

        steps = int(number("steps", GenerateRequest.steps))
        calls = 2 * steps - 1 if fields.get("sampler") in TWO_CALLS_A_STEP else steps
        return cls(
            width=int(number("width", default_size[0])),
            height=int(number("height", default_size[1])),
            guidance_batch=2 if number("guidance_scale", GenerateRequest.guidance_scale) > 1 else 1,
            calls=calls,
            pictures=int(number("samples", GenerateRequest.samples)),
        )


def shape_name(width: int, height: int, guidance_batch: int) -> str:
    """The key of :attr:`instantrt_serve.messages.Ready.call_ms`: ``"1024x1024/2"``."""
    return f"{width}x{height}/{guidance_batch}"


def call_ms(measured: Mapping[str, float], width: int, height: int, guidance_batch: int) -> float:
    """Milliseconds of one network call of a lane of that shape.

    One that was not measured is taken to cost as much per pixel and row of the guidance batch as the measured one of
    the nearest size.
    """
    known = measured.get(shape_name(width, height, guidance_batch))
    if known is not None:
        return known
    wanted = width * height * guidance_batch
    costs = {_elements(name): ms for name, ms in measured.items()}
    nearest = min(costs, key=lambda elements: max(elements / wanted, wanted / elements), default=None)
    return 0.0 if nearest is None else costs[nearest] * wanted / nearest


def job_ms(work: Work, measured: Mapping[str, float], slots: int, fixed_ms: float) -> float:
    """Milliseconds of the device that a job takes when the slots of its lane are all in use."""
    one = call_ms(measured, work.width, work.height, work.guidance_batch) / slots
    return one * work.calls * work.pictures + fixed_ms


def expected_ms(fields: Mapping[str, object], ready: Ready) -> float:
    """:func:`job_ms` of a request's fields, by what a worker measured; fields that it will refuse count for little."""
    asked = Work.of_fields(fields, ready.sizes["default"])
    return job_ms(asked, ready.call_ms, ready.slots, ready.fixed_ms)


def _elements(name: str) -> int:
    size, _, guidance_batch = name.partition("/")
    width, _, height = size.partition("x")
    return int(width) * int(height) * int(guidance_batch)
