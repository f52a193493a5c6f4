"""A job as the worker keeps it, from its arrival to its answer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from threading import Lock
from time import monotonic

import msgspec

from instantrt.conditioning.photo import DecodedPhoto
from instantrt.denoise import LoopShape, SlotInputs
from instantrt.errors import InstantRTError
from instantrt.request import GenerateRequest
from instantrt.samplers import StepTable
from instantrt_serve.messages import Done, Failed, Progress, Submit
from instantrt_serve.scheduler.policy import Job, Picture, Place


class DeadlineError(InstantRTError):
    """A job cannot be done before its deadline any more."""

    code = "deadline"


@dataclass(frozen=True)
class Photos:
    """A request's photos, decoded."""

    face: DecodedPhoto
    pose: DecodedPhoto | None


@dataclass
class OpenPicture:
    """One picture of a job: the calls that it still needs, its slot, and its file when it is done."""

    left: int
    place: Place | None = None
    file: bytes | None = None


@dataclass
class OpenJob:
    """A job that has not been answered.

    Args:
        submit: what was sent; without the photos once they are decoded.
        request: the same, checked.
        shape: of the narrowest lanes that can make its pictures.
        wider: lanes with more slots that can, too.
        table: its step table.
        call_ms: device time of a call of one picture.
        arrived_s: on the worker's clock.
    """

    submit: Submit
    request: GenerateRequest
    shape: LoopShape
    wider: tuple[LoopShape, ...]
    table: StepTable
    call_ms: float
    arrived_s: float
    pictures: list[OpenPicture]
    decoding: bool = False
    photos: Photos | None = None
    begun_s: float | None = None
    told_s: float = 0.0
    seed: int = 0
    inputs: list[SlotInputs] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    stages_ms: dict[str, float] = field(default_factory=dict)
    decoded_s: float = 0.0
    lock: Lock = field(default_factory=Lock)
    is_answered: bool = False

    @property
    def name(self) -> str:
        """Its id."""
        return self.submit.job

    @property
    def calls(self) -> int:
        """Network calls of one picture."""
        return len(self.table.rows)

    @property
    def left_ms(self) -> float:
        """Device time that its loop still needs."""
        return self.call_ms * sum(picture.left for picture in self.pictures)

    @property
    def waits_for_device(self) -> bool:
        """Whether network calls are left."""
        return any(picture.left for picture in self.pictures)

    def first_preview(self) -> int | None:
        """Calls until the first picture is due to be shown; None if it is not asked for, or not any more."""
        every, first = self.submit.preview_calls, self.pictures[0]
        if every <= 0 or first.left == 0:
            return None
        return every - (self.calls - first.left) % every

    def for_policy(self) -> Job:
        """The job as the policy sees it."""
        deadline_s = self.submit.deadline_s
        return Job(
            name=self.name,
            shape=self.shape,
            pictures=tuple(Picture(picture.left, picture.place) for picture in self.pictures),
            call_ms=self.call_ms,
            deadline_s=None if deadline_s is None else self.arrived_s + deadline_s,
            is_ready=self.photos is not None or self.begun_s is not None,
            pause_calls=self.first_preview(),
            wider=self.wider,
        )

    def claim_answer(self) -> bool:
        """Whether the caller is the first to answer the job, and so the one who does; from any thread."""
        with self.lock:
            is_first, self.is_answered = not self.is_answered, True
        return is_first

    def add_stages(self, stages_ms: dict[str, float]) -> None:
        """Count milliseconds of its stages, from any thread."""
        with self.lock:
            for stage, ms in stages_ms.items():
                self.stages_ms[stage] = self.stages_ms.get(stage, 0.0) + ms

    def keep_photos(self, photos: Photos) -> None:
        """The job is ready; the photos' files, which may be large, are not needed any more."""
        self.photos = photos
        self.submit = msgspec.structs.replace(self.submit, face=b"", pose=None)
        self.request = replace(self.request, face=b"", pose=None)

    def is_to_be_told(self, now_s: float) -> bool:
        """Whether progress without a preview is due."""
        return now_s >= self.told_s + self.submit.progress_s

    def progress(self, preview: bytes | None) -> Progress:
        """How far it is, which is told now."""
        self.told_s = monotonic()
        total = self.calls * len(self.pictures)
        return Progress(self.name, total - sum(picture.left for picture in self.pictures), total, preview)

    def done(self) -> Done | None:
        """Its answer, when all its pictures are there; from any thread."""
        with self.lock:
            files = [picture.file for picture in self.pictures if picture.file is not None]
        if len(files) < len(self.pictures) or self.begun_s is None:
            return None
        return Done(
            job=self.name,
            pictures=files,
            seed=self.seed,
            width=self.shape.width,
            height=self.shape.height,
            warnings=list(self.warnings),
            queue_ms=(self.begun_s - self.arrived_s) * 1e3,
            stages_ms=dict(self.stages_ms),
            decoded_s=self.decoded_s,
        )


def failed(job: str, error: BaseException) -> Failed:
    """The answer to a job that ended with this error. Bugs of ours are not described to users."""
    if isinstance(error, InstantRTError):
        return Failed(job, error.code, error.what, error.found, error.hint)
    return Failed(job, "internal", "the picture could not be made because of an error of ours")
