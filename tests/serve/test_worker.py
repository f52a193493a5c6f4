"""The worker on the nano bundle: many jobs at once, each picture bit for bit what the same request gives alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from threading import Event, Lock
from time import monotonic, sleep
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from doubles.photos import encoded
from doubles.worker_talk import ScriptedConnection, answers, pictures
from instantrt import GenerateRequest, InstantID
from instantrt.denoise import DenoiseLoop, LoopShape
from instantrt.engine import TargetOptions
from instantrt.errors import DeviceError, RequestError
from instantrt_serve.messages import Beat, Cancel, Done, Failed, FromWorker, Progress, Ready, Stop, Submit
from instantrt_serve.worker.connection import Hangup
from instantrt_serve.worker.loop import Facts, Worker
from instantrt_serve.worker.maker import PictureMaker
from instantrt_serve.worker.measure import MAX_LANES, Measured, free_bytes, measure, worthwhile
from instantrt_serve.worker.tracks import Tracks, check_tracks, find_tracks

SMALL = {"width": 64, "height": 64}
Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def maker(nano_bundle: Path) -> Iterator[PictureMaker]:
    with PictureMaker(nano_bundle, "onnxruntime", TargetOptions(threads=1)) as made:
        yield made


@pytest.fixture(scope="module")
def measured(maker: PictureMaker) -> Iterator[Measured]:
    found = measure(maker)
    yield found
    found.loop.close()


@pytest.fixture(scope="module")
def tracks(nano_bundle: Path) -> Iterator[Tracks]:
    """Two, on which calls cost twice what they cost on the whole device."""
    with PictureMaker(nano_bundle, "onnxruntime", TargetOptions(threads=1)) as made:
        yield Tracks(made, 2, {1: 2.0, 2: 4.0})


@pytest.fixture(scope="module")
def pipeline(nano_bundle: Path) -> Iterator[InstantID]:
    with InstantID.load(nano_bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def photo(astronaut: Pixels) -> bytes:
    return encoded(astronaut, "PNG")


class Serve:
    """Runs workers on one maker."""

    def __init__(self, maker: PictureMaker, measured: Measured, photo: bytes) -> None:
        self.maker, self.measured, self.photo = maker, measured, photo

    def submit(self, job: str, account: str = "a", **changes: Any) -> Submit:
        """A job of a small picture; arguments that :class:`Submit` does not have are fields of the request."""
        own = {name: changes.pop(name) for name in set(changes) & set(Submit.__struct_fields__)}
        fields = {"prompt": "portrait photo of a person", "steps": 4, "seed": 5, **SMALL, **changes}
        return Submit(**{"job": job, "account": account, "fields": fields, "face": self.photo, "format": "png", **own})

    def __call__(
        self,
        *items: Any,
        costs: dict[int, float] = {1: 1.0},  # noqa: B006 - only read
        lanes: int = 3,
        tracks: Tracks | None = None,
        react: Callable[[FromWorker], Any] = lambda _: None,
        stop: bool = True,
    ) -> list[FromWorker]:
        """All that a worker says until it has answered everything."""
        loop = self.maker.open_loop(LoopShape(next(iter(costs)), 2, 64, 64))
        measured = replace(self.measured, loop=loop, slot_costs=costs, lanes=lanes, call_ms={"64x64/2": 20.0})
        connection = ScriptedConnection([*items, Stop()] if stop else [*items], react)
        facts = Facts("nano", "1.2.3")
        Worker(self.maker, measured, connection, facts, tracks).run()  # type: ignore[arg-type]
        assert isinstance(connection.sent[0], Ready)
        ended = [message.job for message in connection.sent if isinstance(message, Done | Failed)]
        assert len(ended) == len(set(ended)), "one answer for each job"
        return connection.sent


@pytest.fixture
def serve(maker: PictureMaker, measured: Measured, photo: bytes) -> Serve:
    return Serve(maker, measured, photo)


MIXED: dict[str, dict[str, Any]] = {
    "euler": {"steps": 11, "seed": 1},
    "heun": {"steps": 5, "seed": 2, "sampler": "heun", "negative_prompt": "blurred"},
    "stochastic": {"steps": 7, "seed": 3, "sampler": "dpmpp_2m_sde_karras", "samples": 2},
    "unguided": {"steps": 4, "seed": 4, "guidance_scale": 1, "sampler": "lcm"},
    "window": {"steps": 6, "seed": 5, "control_guidance_end": 0.5, "enhance_face_region": False},
    "other size": {"steps": 4, "seed": 6, "width": 128, "height": 64, "style": "Neon"},
    "weak": {"steps": 9, "seed": 7, "identity_strength": 0.2, "adapter_strength": 0.1},
}


def test_jobs_side_by_side_give_the_pixels_that_generate_gives(
    serve: Serve, pipeline: InstantID, astronaut: Pixels
) -> None:
    """Mixed samplers, steps, sizes, strengths and guidance on few lanes: pictures join and leave all the time."""
    said = serve(*(serve.submit(name, account=name[0], **changes) for name, changes in MIXED.items()))
    for name, answer in answers(said).items():
        fields = {"prompt": "portrait photo of a person", **SMALL, **MIXED[name]}
        alone = pipeline.run(GenerateRequest(face=astronaut, **fields))
        np.testing.assert_array_equal(pictures(answer), alone.pixels, err_msg=name)
    assert answers(said).keys() == MIXED.keys()


def test_several_slots_give_each_picture_what_it_gives_alone(serve: Serve) -> None:
    """Slots, lanes and neighbours differ from run to run; every picture is the same."""
    jobs = [serve.submit(name, **MIXED[name]) for name in ("euler", "heun", "stochastic", "weak")]
    together = answers(serve(*jobs, costs={2: 2.0}))
    for job in jobs[1:3]:
        (alone,) = answers(serve(job, costs={2: 2.0})).values()
        np.testing.assert_array_equal(pictures(together[job.job]), pictures(alone), err_msg=job.job)


def test_an_answer_says_what_was_made_and_how_long_it_took(serve: Serve) -> None:
    said = serve(serve.submit("one", tags={"request_id": "r-17"}, samples=2))
    answer = answers(said)["one"]
    assert isinstance(answer, Done)
    assert (answer.seed, answer.width, answer.height, answer.warnings) == (5, 64, 64, [])
    assert {"photo", "face", "text", "conditioning", "denoise", "decode", "encode"} <= set(answer.stages_ms)
    assert answer.queue_ms >= 0
    for file in answer.pictures:
        with Image.open(BytesIO(file)) as picture:
            tags = {name: picture.info[name] for name in ("model", "version", "request_id")}
        assert tags == {"model": "nano", "version": "1.2.3", "request_id": "r-17"}
    told = [message for message in said if isinstance(message, Progress)]
    assert (told[0].calls_done, told[-1].calls_done, told[0].calls) == (0, 8, 8)
    beats = [message for message in said if isinstance(message, Beat)]
    assert (beats[-1].waiting, beats[-1].received) == (0, 1)


def test_progress_that_nobody_watches_is_told_seldom_and_previews_when_they_are_due(serve: Serve) -> None:
    said = serve(serve.submit("quiet", steps=20, progress_s=60, preview_calls=8))
    told = [(m.calls_done, m.preview is not None) for m in said if isinstance(m, Progress)]
    assert told == [(0, False), (8, True), (16, True)]


def test_a_short_job_that_comes_later_is_done_first_and_the_long_one_loses_nothing(serve: Serve) -> None:
    sent: list[Submit] = []

    def react(message: FromWorker) -> Submit | None:
        if isinstance(message, Progress) and message.calls_done >= 2 and not sent:
            sent.append(serve.submit("short"))
            return sent[0]
        return Stop() if isinstance(message, Done) and message.job == "long" else None  # type: ignore[return-value]

    said = serve(serve.submit("long", steps=60), react=react, stop=False)
    assert list(answers(said)) == ["short", "long"]
    before = said[: said.index(answers(said)["short"])]
    done = max(message.calls_done for message in before if isinstance(message, Progress) and message.job == "long")
    assert done <= 2 + 3 * 8, "the turn under way, and those while its photo is decoded and its file made"


def test_accounts_share_the_device(serve: Serve) -> None:
    """One account's many jobs come first; the other's one is not behind them all."""
    flood = [serve.submit(f"flood-{n}", account="greedy", steps=6) for n in range(6)]
    order = list(answers(serve(*flood, serve.submit("modest", account="modest", steps=6))))
    assert order.index("modest") <= 2


def test_a_cancelled_job_ends_at_its_next_call_and_others_go_on(serve: Serve) -> None:
    def react(message: FromWorker) -> Cancel | None:
        return (
            Cancel("long") if isinstance(message, Progress) and message.job == "long" and message.calls_done else None
        )

    said = serve(serve.submit("long", steps=100), serve.submit("other", steps=30), react=react)
    cancelled = answers(said)["long"]
    assert isinstance(cancelled, Failed)
    assert cancelled.code == "cancelled"
    assert max(m.calls_done for m in said if isinstance(m, Progress) and m.job == "long") <= 16
    assert isinstance(answers(said)["other"], Done)


def test_a_job_that_cannot_keep_its_deadline_is_given_up(serve: Serve) -> None:
    said = serve(serve.submit("late", steps=100, deadline_s=0.01), serve.submit("patient"))
    late = answers(said)["late"]
    assert isinstance(late, Failed)
    assert (late.code, late.found) == ("deadline", "a deadline 0.01 s after the job's arrival")
    assert isinstance(answers(said)["patient"], Done)


def test_mistakes_are_answered_by_their_code_and_others_are_served(serve: Serve) -> None:
    blank = encoded(np.full((200, 200, 3), 128, np.uint8), "PNG")
    said = serve(
        serve.submit("size", width=4096, height=64),
        serve.submit("steps", steps=1),
        serve.submit("nobody", face=blank),
        serve.submit("broken", face=b"no photo at all"),
        serve.submit("pose", pose=blank),
        serve.submit("fine"),
    )
    found = {name: answer.code for name, answer in answers(said).items() if isinstance(answer, Failed)}
    assert found == {"size": "request", "steps": "request", "nobody": "no_face", "broken": "photo", "pose": "no_face"}
    assert isinstance(answers(said)["fine"], Done)


def test_a_bug_is_answered_without_its_text_and_logged_without_the_request(
    serve: Serve, maker: PictureMaker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    decode, failures = maker.decode, iter([True])

    def fail_once(latents: Any) -> Any:
        if next(failures, False):
            raise ValueError("a secret wish")
        return decode(latents)

    monkeypatch.setattr(maker, "decode", fail_once)
    said = serve(serve.submit("unlucky", prompt="a secret wish"), serve.submit("lucky", seed=6))
    by_kind = sorted(answers(said).values(), key=lambda answer: isinstance(answer, Done))
    assert isinstance(by_kind[0], Failed)
    assert (by_kind[0].code, by_kind[0].found) == ("internal", None)
    assert isinstance(by_kind[1], Done)
    log = capsys.readouterr().err
    assert '"error": "ValueError"' in log
    assert "fail_once" in log
    assert "secret" not in log


@pytest.mark.parametrize("room", [1, 2])
def test_lanes_that_do_not_fit_lower_the_bound_and_fail_nobody(
    serve: Serve, maker: PictureMaker, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    open_loop, opened = maker.open_loop, []

    class Counted:
        def __init__(self, loop: DenoiseLoop) -> None:
            self._loop = loop
            opened.append(self)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._loop, name)

        def close(self) -> None:
            opened.remove(self)
            self._loop.close()

    def bounded(shape: LoopShape, **options: Any) -> Any:
        if len(opened) >= room:
            raise DeviceError("allocating", found="out", hint="less", driver_code="CUDA_ERROR_OUT_OF_MEMORY")
        return Counted(open_loop(shape, **options))

    monkeypatch.setattr(maker, "open_loop", bounded)
    said = serve(*(serve.submit(name, account=name, **changes) for name, changes in MIXED.items()), lanes=8)
    assert all(isinstance(answer, Done) for answer in answers(said).values())
    assert len(answers(said)) == len(MIXED)


def lost(*_: Any) -> Any:
    raise DeviceError("working", found="it fell off the bus", hint="restart", driver_code="CUDA_ERROR_UNKNOWN")


def test_a_lost_device_ends_the_worker_after_its_job_is_answered(
    serve: Serve, maker: PictureMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maker, "decode", lost)
    with pytest.raises(DeviceError):
        serve(serve.submit("last"))


def test_a_worker_whose_listener_is_gone_ends_at_once(serve: Serve) -> None:
    said = serve(serve.submit("long", steps=100), Hangup(), stop=False)
    assert not answers(said)


def test_previews_are_small_pictures_that_come_near_the_final_one(serve: Serve) -> None:
    said = serve(serve.submit("shown", steps=12, preview_calls=3, width=128, height=128))
    shown = [m for m in said if isinstance(m, Progress) and m.preview is not None]
    assert [message.calls_done for message in shown] == [3, 6, 9]
    assert shown[-1].preview is not None
    last = np.asarray(Image.open(BytesIO(shown[-1].preview)), np.float32)
    final = pictures(answers(said)["shown"])[0].reshape(last.shape[0], -1, last.shape[1], 128 // last.shape[1], 3)
    assert np.corrcoef(last.ravel(), final.mean(axis=(1, 3)).ravel())[0, 1] > 0.5


def test_what_is_measured_makes_sense(maker: PictureMaker, measured: Measured) -> None:
    assert measured.loop.shape.slots == measured.slots in (1, 2, 4)
    assert all(count in (1, 2, 4) and cost > 0 for count, cost in measured.slot_costs.items())
    assert measured.slot_costs[measured.slots] == measured.slots
    assert 1 <= measured.lanes <= MAX_LANES
    assert list(measured.call_ms) == ["128x128/2"]
    assert measured.call_ms["128x128/2"] > 0
    assert free_bytes(maker.device) > 1 << 20


@pytest.mark.parametrize(
    ("times_ms", "exact", "kept"),
    [
        ({1: 10.0, 2: 17.0, 4: 31.0}, True, [1, 2, 4]),
        ({1: 10.0, 2: 17.0, 4: 31.0}, False, [1]),  # nobody's picture depends on who else is there
        ({1: 10.0, 2: 11.0, 4: 12.0}, True, [4]),
        ({1: 10.0, 2: 11.0, 4: 12.0}, False, [4]),
        ({1: 10.0, 2: 19.8, 4: 31.0}, True, [1, 4]),
        ({1: 10.0, 2: 20.0, 4: 44.0}, True, [1]),
        ({1: 10.0, 2: 12.0, 4: 22.0}, True, [2, 4]),
        ({2: 10.0}, False, [2]),
    ],
)
def test_lanes_have_the_slot_counts_that_pay(times_ms: dict[int, float], exact: bool, kept: list[int]) -> None:
    assert worthwhile(times_ms, exact=exact) == kept


def test_a_job_shares_a_wider_lane_and_its_picture_stays_the_same(
    serve: Serve, pipeline: InstantID, astronaut: Pixels
) -> None:
    """Where slots pay, a job's own pictures and those of others go side by side."""
    names = ("euler", "heun", "stochastic", "weak")
    costs = {1: 1.0, 2: 1.5, 4: 2.0}
    said = serve(*(serve.submit(name, **MIXED[name]) for name in names), costs=costs)
    for name, answer in answers(said).items():
        fields = {"prompt": "portrait photo of a person", **SMALL, **MIXED[name]}
        np.testing.assert_array_equal(pictures(answer), pipeline.run(GenerateRequest(face=astronaut, **fields)).pixels)


class LoopsAtWork:
    """Counts, on the track's maker, how many loops are at work, and lets them wait for each other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.most = 0
        self.lock, self.run = Lock(), DenoiseLoop.run
        monkeypatch.setattr(DenoiseLoop, "run", lambda loop, calls: self(loop, calls))

    def __call__(self, loop: DenoiseLoop, calls: int) -> Any:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            sleep(0.05)
            return self.run(loop, calls)
        finally:
            with self.lock:
                self.now -= 1


def test_lanes_work_at_once_on_tracks_and_give_the_pixels_that_generate_gives(
    serve: Serve, tracks: Tracks, pipeline: InstantID, astronaut: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_work = LoopsAtWork(monkeypatch)
    jobs = [serve.submit(name, account=name[0], **changes) for name, changes in MIXED.items()]
    said = serve(*jobs, tracks=tracks, costs={1: 1.0, 2: 1.5})
    assert at_work.most == tracks.count
    for name, answer in answers(said).items():
        fields = {"prompt": "portrait photo of a person", **SMALL, **MIXED[name]}
        alone = pipeline.run(GenerateRequest(face=astronaut, **fields))
        np.testing.assert_array_equal(pictures(answer), alone.pixels, err_msg=name)
    assert answers(said).keys() == MIXED.keys()
    told = [m.calls_done for m in said if isinstance(m, Progress) and m.job == "euler"]
    assert told == sorted(told)
    assert told[-1] == 11


def test_a_job_alone_has_the_whole_device(serve: Serve, tracks: Tracks, monkeypatch: pytest.MonkeyPatch) -> None:
    at_work = LoopsAtWork(monkeypatch)
    monkeypatch.setattr(tracks.maker, "decode", lambda _: pytest.fail("decoded on a track"))
    assert isinstance(answers(serve(serve.submit("one"), tracks=tracks))["one"], Done)
    assert at_work.most == 1


def test_a_job_is_cancelled_while_its_lane_is_at_work_on_a_track(serve: Serve, tracks: Tracks) -> None:
    def react(message: FromWorker) -> Cancel | None:
        return Cancel("long") if isinstance(message, Progress) and message.job == "other" else None

    jobs = [serve.submit("long", steps=100), serve.submit("other", steps=10), serve.submit("third", steps=12)]
    said = serve(*jobs, tracks=tracks, react=react)
    found = {name: getattr(answer, "code", None) for name, answer in answers(said).items()}
    assert found == {"long": "cancelled", "other": None, "third": None}


def test_what_goes_wrong_on_a_track_ends_the_worker(
    serve: Serve, tracks: Tracks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DenoiseLoop, "run", lost)
    with pytest.raises(DeviceError):
        serve(serve.submit("one"), serve.submit("two", account="b"), tracks=tracks)


def test_a_worker_is_silent_while_a_track_hangs(serve: Serve, tracks: Tracks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who watch it kill what says nothing; words of the other track would hide the hung one."""
    run, hung, said_at = DenoiseLoop.run, Event(), list[float]()

    def hang_once(loop: DenoiseLoop, calls: int) -> Any:
        if not hung.is_set():
            hung.set()
            sleep(2.5)
        return run(loop, calls)

    monkeypatch.setattr(DenoiseLoop, "run", hang_once)
    react = lambda message: said_at.append(monotonic()) if isinstance(message, Beat | Progress) else None  # noqa: E731
    jobs = [serve.submit("one", steps=60), serve.submit("two", account="b", steps=60)]
    assert all(isinstance(a, Done) for a in answers(serve(*jobs, tracks=tracks, react=react)).values())
    assert max(np.diff(said_at)) > 1.0


def test_tracks_are_used_where_they_do_more_and_change_no_picture(
    maker: PictureMaker, measured: Measured, nano_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_maker(threads: int) -> PictureMaker:
        opened.append(PictureMaker(nano_bundle, "onnxruntime", TargetOptions(threads=threads)))
        return opened[-1]

    def found(cost: float, **asked: int) -> Tracks | None:
        return find_tracks(maker, replace(measured, slot_costs={1: cost}), open_maker, threads=2, **asked)

    opened: list[PictureMaker] = []
    tracks = found(1000.0)
    assert tracks is not None
    assert (tracks.maker, tracks.count, list(tracks.costs)) == (opened[0], 2, [1])
    assert tracks.rate == 2 / tracks.costs[1]
    assert 0 < tracks.costs[1] < 100
    assert found(0.001) is None, "they do less"
    assert found(1000.0, asked=1) is None
    told = found(0.001, asked=2)
    assert told is not None
    assert told.count == 2
    monkeypatch.setattr("instantrt_serve.worker.tracks.free_bytes", lambda _: 1 << 20)
    assert found(1000.0) is None, "they do not fit"
    monkeypatch.undo()
    decode = maker.decode
    monkeypatch.setattr(maker, "decode", lambda latents: decode(latents) ^ 1)
    assert found(1000.0) is None, "pictures would depend on who else is there"
    for made in opened:
        made.close()


def test_a_gpu_has_no_tracks() -> None:
    check_tracks("tensorrt", None)
    check_tracks("onnxruntime", 4)
    with pytest.raises(RequestError, match="tensorrt has no tracks"):
        check_tracks("tensorrt", 2)


def test_slots_and_lanes_can_be_told(maker: PictureMaker) -> None:
    told = measure(maker, slots=2, lanes=5)
    assert (told.slot_costs, told.loop.shape.slots, told.lanes) == ({2: 2.0}, 2, 5)
    told.loop.close()
