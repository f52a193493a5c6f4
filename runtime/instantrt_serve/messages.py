"""What the API process and the engine worker say to each other: one MessagePack object per frame, nothing executable.

The API process sends :class:`Submit` and :class:`Cancel`; the worker answers each submitted job with any number of
:class:`Progress` and exactly one of :class:`Done` and :class:`Failed`. A worker that dies answers nothing more: its
client then fails every job that was open with :class:`instantrt_serve.worker_client.WorkerLostError`.
"""

from __future__ import annotations

from typing import Literal

import msgspec

PictureFormat = Literal["jpeg", "png"]


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    """A job for the worker.

    Args:
        job: the job's id, unique among open jobs.
        account: whom the job's share of the device is counted for.
        fields: fields of :class:`instantrt.GenerateRequest` but ``face`` and ``pose``; the seed is drawn already.
        face: the photo's file.
        pose: the pose photo's file.
        deadline_s: seconds from now after which the answer is of no use any more; None for jobs that wait.
        format: of the pictures.
        preview_calls: send a preview with the progress after every so many network calls; 0 sends none.
        progress_s: send no progress without a preview sooner than so many seconds after the one before.
        tags: written into each picture beside what the worker itself knows, e.g. the request's id.
    """

    job: str
    account: str
    fields: dict[str, str | int | float | bool | None]
    face: bytes
    pose: bytes | None = None
    deadline_s: float | None = None
    format: PictureFormat = "jpeg"
    preview_calls: int = 0
    progress_s: float = 0.0
    tags: dict[str, str] = {}


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """Stop a job at its next call; it ends with :class:`Failed` and code ``cancelled``, unless it has ended."""

    job: str


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """Take no more jobs, finish those there are, then exit."""


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """Networks are loaded and warm.

    Args:
        model: what the bundle calls itself.
        target: what executes the networks.
        sizes: width and height in pixels by name: ``default``, ``min`` and ``max``.
        slots: pictures that the narrowest lane denoises side by side.
        call_ms: by "WIDTHxHEIGHT/GUIDANCE_BATCH", milliseconds of one network call of one lane, measured at start-up.
        fixed_ms: milliseconds of a request outside the loop, measured at start-up.
    """

    model: str
    target: str
    sizes: dict[str, tuple[int, int]]
    slots: int
    call_ms: dict[str, float]
    fixed_ms: float


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """The worker lives, and what it has to do: whenever jobs come, begin or end, and every second.

    Args:
        waiting: jobs that have not begun.
        active: jobs in a lane.
        backlog_ms: how long the device has to work for all of them, as measured so far.
        received: jobs that have been sent to it in all, so that the sender knows which it has not counted yet.
        opens_lane: it is about to load networks for another lane, and will say nothing until that is done.
    """

    waiting: int
    active: int
    backlog_ms: float
    received: int = 0
    opens_lane: bool = False


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far a job is.

    Args:
        job: its id.
        calls_done: network calls done, of all its pictures together.
        calls: network calls in all, likewise.
        preview: a small JPEG of the first picture as it is now.
    """

    job: str
    calls_done: int
    calls: int
    preview: bytes | None = None


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A job's pictures.

    Args:
        job: its id.
        pictures: one file per sample.
        seed: the seed used.
        width: of the pictures, in pixels.
        height: likewise.
        warnings: what the user should know.
        queue_ms: from the job's arrival at the worker to its start.
        stages_ms: milliseconds by stage, as in :class:`instantrt.result.Timings`.
        decoded_s: when the last picture was decoded, by :func:`time.monotonic`, which is the same for all processes.
    """

    job: str
    pictures: list[bytes]
    seed: int
    width: int
    height: int
    warnings: list[str]
    queue_ms: float
    stages_ms: dict[str, float]
    decoded_s: float = 0.0


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A job without pictures.

    Args:
        job: its id.
        code: the code of an :class:`instantrt.InstantRTError`, e.g. ``no_face``, or ``internal`` for a bug of ours,
            whose traceback is in the worker's log and nowhere else; ``deadline`` when it could not be done in time.
        what: the mistake in one sentence.
        found: what was found instead of what was needed.
        hint: what to do.
    """

    job: str
    code: str
    what: str
    found: str | None = None
    hint: str | None = None


ToWorker = Submit | Cancel | Stop
FromWorker = Ready | Beat | Progress | Done | Failed
Event = Progress | Done | Failed
"""What a job's sender hears of it."""
