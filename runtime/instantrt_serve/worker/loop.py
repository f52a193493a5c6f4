"""The worker's main loop: messages in, the policy's decision, one turn of the device, answers out.

The main thread owns the device. Photos are decoded and pictures encoded in a few threads beside it. Each track has one
that does nothing but the network calls of a turn, and while they work, finished pictures are decoded in one more. They
put what they made into the main thread's queue; so no state is shared between threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic, perf_counter

from instantrt.conditioning.photo import decode_photo
from instantrt.denoise import DenoiseLoop, LoopTimes
from instantrt.errors import CancelledError, DeviceError, InstantRTError
from instantrt.prepare import request_table
from instantrt.request import GenerateRequest
from instantrt.slots import Latents
from instantrt_serve.estimate import call_ms, shape_name
from instantrt_serve.messages import Beat, Cancel, FromWorker, Ready, Stop, Submit
from instantrt_serve.pictures import preview_picture, tagged_picture
from instantrt_serve.scheduler.fair import ImaginedDevice, order
from instantrt_serve.scheduler.policy import Decision, Limits, Place, State, Turn, decide
from instantrt_serve.worker.connection import Connection, Hangup, Received
from instantrt_serve.worker.jobs import DeadlineError, OpenJob, OpenPicture, Photos, failed
from instantrt_serve.worker.lanes import LaneLoops, Lanes
from instantrt_serve.worker.log import log, log_bug
from instantrt_serve.worker.maker import PictureMaker, Pixels
from instantrt_serve.worker.measure import Measured
from instantrt_serve.worker.tracks import Tracks

DECODE_AHEAD = 16  # jobs whose photos are decoded before their turn: those that may share a lane are among them
THREADS = 2  # for photos and pictures
BEAT_S = 1.0  # at most between two
LEAST_BEAT_S = 0.25  # at least, while there are jobs: each costs the other process a moment of a core
OUT_OF_MEMORY = "CUDA_ERROR_OUT_OF_MEMORY"  # the one failure of a driver after which it still works
SMOOTHING = 0.2  # weight of the newest turn in the mean time of a call


@dataclass(frozen=True)
class Facts:
    """What the worker says of itself when it is ready, and in the tags of its pictures."""

    model: str
    version: str


class Worker:
    """Answers jobs until it is told to stop or nobody listens any more.

    Args:
        maker: the networks.
        measured: what is known of the device.
        connection: to the API process.
        facts: about itself.
        tracks: where the CPU has them.
    """

    def __init__(
        self,
        maker: PictureMaker,
        measured: Measured,
        connection: Connection,
        facts: Facts,
        tracks: Tracks | None = None,
    ) -> None:
        self._whole, self._measured, self._connection, self._facts = maker, measured, connection, facts
        self._tracks = tracks
        self._on_tracks = ThreadPoolExecutor(1 if tracks is None else tracks.count, thread_name_prefix="track")
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decoder")  # while tracks work
        self._working: dict[int, float] = {}  # when the lanes on tracks began
        self._lanes = Lanes(lambda shape: self._lane(maker.open_loop(shape, loaded=False)), measured.lanes)
        self._warm_up()
        self._call_ms = dict(measured.call_ms)
        self._jobs: dict[str, OpenJob] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="pictures")
        self._received = 0
        self._beaten, self._beaten_s = (0, 0, 0, False), monotonic()
        self._imagined = ImaginedDevice()
        self._stopping = self._abandoned = False

    def run(self) -> None:
        """Work until :class:`Stop` and the last answer, or until the connection ends."""
        self._send(self._ready())
        try:
            while not self._is_over():
                self._receive(0)
                self._decode_ahead()
                if self._is_held_up():
                    self._receive(BEAT_S)
                    continue
                decision = decide(self._state())
                self._expire(decision)
                if decision.turn is None:
                    self._receive(BEAT_S)
                else:
                    self._take(decision.turn)
                self._beat()
        finally:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._on_tracks.shutdown()
            self._decoder.shutdown(cancel_futures=True)
            self._lanes.close()

    def _is_over(self) -> bool:
        return self._abandoned or (self._stopping and not self._jobs)

    def _is_held_up(self) -> bool:
        """Whether a turn on a track takes so long that nothing is to be said until it ends.

        Then a hung track looks like what it is to those who watch for words of this process.
        """
        return any(monotonic() > began_s + BEAT_S for began_s in self._working.values())

    def _send(self, message: FromWorker) -> None:
        self._connection.send(message)

    def _ready(self) -> Ready:
        sizes, measured = self._whole.bundle.manifest.sizes, self._measured
        return Ready(
            model=self._facts.model,
            target=self._whole.target.name,
            sizes={"default": sizes.default, "min": sizes.min, "max": sizes.max},
            slots=measured.slots,
            call_ms=measured.call_ms,
            fixed_ms=measured.fixed_ms,
        )

    def _beat(self, *, opens_lane: bool = False) -> None:
        begun = sum(job.begun_s is not None for job in self._jobs.values())
        counts, now_s = (len(self._jobs) - begun, begun, self._received, opens_lane), monotonic()
        pause_s = BEAT_S if counts == self._beaten else LEAST_BEAT_S if self._jobs and not opens_lane else 0.0
        if now_s < self._beaten_s + pause_s:
            return
        self._beaten, self._beaten_s = counts, now_s
        backlog_ms = sum(job.left_ms + self._measured.fixed_ms for job in self._jobs.values())
        self._send(Beat(len(self._jobs) - begun, begun, backlog_ms, self._received, opens_lane))

    # Messages

    def _receive(self, timeout_s: float) -> None:
        """Everything there is; waits for the first one."""
        item = self._connection.receive(timeout_s)
        while item is not None:
            self._handle(item)
            item = self._connection.receive(0)

    def _handle(self, item: Received) -> None:
        match item:
            case Submit():
                self._received += 1
                self._guarded(item.job, partial(self._open, item))
            case Cancel():
                if item.job in self._jobs:
                    self._fail(item.job, CancelledError("the job was cancelled"))
            case Stop():
                self._stopping = True
            case Hangup():
                self._abandoned = True
            case _:
                item()

    def _open(self, submit: Submit) -> None:
        if self._stopping:
            raise CancelledError("the worker is stopping")
        request = GenerateRequest(face=submit.face, pose=submit.pose, **submit.fields)  # type: ignore[arg-type]
        shape = self._whole.shape(request, self._measured.slots)
        wider = self._whole.wider(shape, self._measured.slot_costs)
        table = request_table(request, self._whole.bundle.scheduler)
        one_ms = call_ms(self._call_ms, shape.width, shape.height, shape.guidance_batch) / shape.slots
        pictures = [OpenPicture(len(table.rows)) for _ in range(request.samples)]
        job = self._jobs[submit.job] = OpenJob(submit, request, shape, wider, table, one_ms, monotonic(), pictures)
        self._imagined.add(submit.job, submit.account, job.left_ms)

    def _guarded(self, name: str, work: Callable[[], None]) -> bool:
        """Do something for one job, whose failure is its own; False if it failed. A lost device ends the worker."""
        try:
            work()
        except Exception as error:
            self._fail(name, error)
            if isinstance(error, DeviceError) and error.driver_code != OUT_OF_MEMORY:
                raise
            return False
        return True

    def _fail(self, name: str, error: BaseException) -> None:
        job = self._jobs.pop(name, None)
        self._imagined.remove(name)
        if job is not None and not job.claim_answer():
            return
        if not isinstance(error, InstantRTError):
            log_bug("job_failed", error, job=name)
        self._send(failed(name, error))

    # Beside the loop

    def _decode_ahead(self) -> None:
        """Have the photos of the next few jobs decoded."""
        waiting = {name for name, job in self._jobs.items() if job.begun_s is None}
        for name in [name for name in order(self._imagined.jobs) if name in waiting][:DECODE_AHEAD]:
            job = self._jobs[name]
            if not job.decoding:
                job.decoding = True
                self._beside(job, partial(self._decode_photos, job))

    def _beside(self, job: OpenJob, work: Callable[[], None], threads: ThreadPoolExecutor | None = None) -> None:
        """Do something for a job in a thread; if it fails, so does the job."""

        def run() -> None:
            try:
                work()
            except Exception as error:
                self._connection.put(partial(self._fail_beside, job, error))

        (threads or self._threads).submit(run)

    def _fail_beside(self, job: OpenJob, error: Exception) -> None:
        if self._jobs.get(job.name) is job:
            self._fail(job.name, error)

    def _decode_photos(self, job: OpenJob) -> None:
        """In a thread."""
        start, submit = perf_counter(), job.submit
        photos = Photos(decode_photo(submit.face), None if submit.pose is None else decode_photo(submit.pose))
        job.add_stages({"photo": (perf_counter() - start) * 1e3})
        self._connection.put(partial(job.keep_photos, photos))

    def _decode_picture(self, job: OpenJob, index: int, latents: Latents) -> None:
        """In a thread, while others work on tracks."""
        assert self._tracks is not None
        start = perf_counter()
        pixels = self._tracks.maker.decode(latents)
        job.decoded_s = monotonic()
        job.add_stages({"decode": (perf_counter() - start) * 1e3})
        self._encode_picture(job, index, pixels)

    def _encode_picture(self, job: OpenJob, index: int, pixels: Pixels) -> None:
        """In a thread; the last picture's sends the answer, so that it does not wait for the next turn's end."""
        start, submit = perf_counter(), job.submit
        tags = {"model": self._facts.model, "version": self._facts.version, **submit.tags}
        job.pictures[index].file = tagged_picture(pixels, submit.format, tags)
        job.add_stages({"encode": (perf_counter() - start) * 1e3})
        done = job.done()
        if done is not None and job.claim_answer():
            self._send(done)
            self._connection.put(partial(self._forget, job))

    def _forget(self, job: OpenJob) -> None:
        if self._jobs.get(job.name) is job:
            del self._jobs[job.name]

    # The device

    @property
    def _maker(self) -> PictureMaker:
        """The networks that are used next: on one track's threads if others are at work."""
        return self._tracks.maker if self._tracks is not None and self._working else self._whole

    def _lane(self, whole: DenoiseLoop) -> LaneLoops:
        return LaneLoops(whole) if self._tracks is None else self._tracks.lane(whole)

    def _warm_up(self) -> None:
        """Lanes for the first jobs, so that none of them need wait for its lane."""
        loop = self._measured.loop
        first = self._lanes.adopt(self._lane(loop))
        if self._tracks is not None:
            self._lanes.use(first, on_track=True)
        for _ in range(1, min(self._measured.lanes, 2 if self._tracks is None else self._tracks.count)):
            self._lanes.open(loop.shape, on_track=self._tracks is not None)

    def _state(self) -> State:
        jobs = tuple(job.for_policy() for job in self._jobs.values() if job.waits_for_device)
        lanes, working = self._lanes.lanes(), frozenset(self._working)
        return State(jobs, self._imagined.jobs, lanes, self._limits(), monotonic(), working)

    def _limits(self) -> Limits:
        measured, tracks = self._measured, self._tracks
        limits = Limits(self._lanes.bound, fixed_ms=measured.fixed_ms, slot_costs=measured.slot_costs)
        return limits if tracks is None else replace(limits, tracks=tracks.count, track_costs=tracks.costs)

    def _expire(self, decision: Decision) -> None:
        for name in decision.expired:
            late = DeadlineError(
                "the picture cannot be ready in time any more",
                found=f"a deadline {self._jobs[name].submit.deadline_s} s after the job's arrival",
                hint="send it again when there is less to do, or with a later deadline",
            )
            self._fail(name, late)

    def _take(self, turn: Turn) -> None:
        """One turn of a lane: pictures join, the networks are called, and finished pictures leave."""
        number = turn.lane
        if number is None or not self._lanes.is_loaded(number, on_track=turn.on_track):
            self._beat(opens_lane=True)
        if number is None:
            opened: list[int | None] = []
            first = turn.joins[0].job
            opens = partial(self._lanes.open, turn.shape, turn.closes, on_track=turn.on_track)
            if not self._guarded(first, lambda: opened.append(opens())):
                return
            number = opened[0]
        if number is None:
            return
        loop = self._lanes.use(number, on_track=turn.on_track)
        self._join(number, loop, turn)
        if not self._here(number):  # all that joined have failed
            return
        if turn.on_track:
            self._working[number] = monotonic()
            run = self._on_tracks.submit(lambda: loop.run(turn.calls))
            run.add_done_callback(
                lambda run: self._connection.put(partial(self._end_on_track, number, loop, turn, run))
            )
        else:
            self._end(number, loop, turn, loop.run(turn.calls))

    def _join(self, number: int, loop: DenoiseLoop, turn: Turn) -> None:
        for name in dict.fromkeys(join.job for join in turn.joins):
            slots = {join.picture: join.slot for join in turn.joins if join.job == name}
            self._guarded(name, partial(self._fill, self._jobs[name], number, loop, slots))

    def _fill(self, job: OpenJob, lane: int, loop: DenoiseLoop, slots: dict[int, int]) -> None:
        """Put pictures of a job into slots; the first time, after its conditioning."""
        clock = self._maker.clock
        clock.restart()
        begins = job.begun_s is None
        if begins:
            self._begin(job)
        with clock.stage("upload"):
            for picture, slot in slots.items():
                loop.load_slot(slot, job.inputs[picture])
                job.pictures[picture].place = Place(lane, slot)
        for index in [i for i, waits in enumerate(job.pictures) if begins and waits.place is None]:
            job.inputs[index] = self._maker.kept(job.inputs[index])
        job.add_stages(clock.read_ms())

    def _begin(self, job: OpenJob) -> None:
        assert job.photos is not None
        job.begun_s = monotonic()
        self._send(job.progress(None))
        prepared = self._whole.prepare(job.request, job.photos, self._maker.clock)
        job.photos, job.seed = None, prepared.seed
        job.inputs, text_warnings = self._maker.condition(prepared, job.table, job.shape.guidance_batch)
        job.warnings = self._whole.target.warnings + prepared.identity.warnings + text_warnings

    def _here(self, number: int) -> list[tuple[OpenJob, int, OpenPicture]]:
        """Who is in a lane."""
        return [
            (job, index, picture)
            for job in self._jobs.values()
            for index, picture in enumerate(job.pictures)
            if picture.place is not None and picture.place.lane == number
        ]

    def _end_on_track(self, number: int, loop: DenoiseLoop, turn: Turn, run: Future[LoopTimes]) -> None:
        del self._working[number]
        self._end(number, loop, turn, run.result())

    def _end(self, number: int, loop: DenoiseLoop, turn: Turn, run: LoopTimes) -> None:
        """A lane has done its turn: progress is told, and finished pictures leave."""
        here, times = self._here(number), run.call_ms
        self._learn(loop, times, on_track=turn.on_track)
        work_ms = sum(job.call_ms for job, _, _ in here) * turn.calls
        for _, _, picture in here:
            picture.left -= turn.calls
        self._imagined.advance(work_ms, [name for name, job in self._jobs.items() if job.waits_for_device])
        for job in {job.name: job for job, _, _ in here}.values():
            job.add_stages({"denoise": sum(times)})
            self._guarded(job.name, partial(self._tell, job, loop))
        for job, index, picture in here:
            if picture.left == 0 and job.name in self._jobs:
                self._guarded(job.name, partial(self._finish, job, index, loop))

    def _learn(self, loop: DenoiseLoop, times_ms: tuple[float, ...], *, on_track: bool) -> None:
        """Keep the mean time of a call of the narrowest lane of this size on the whole device."""
        name = shape_name(loop.shape.width, loop.shape.height, loop.shape.guidance_batch)
        cost = self._limits().cost(loop.shape.slots, on_track=on_track)
        newest = sum(times_ms) / len(times_ms) * self._measured.slots / cost
        self._call_ms[name] = newest + (1 - SMOOTHING) * (self._call_ms.get(name, newest) - newest)

    def _tell(self, job: OpenJob, loop: DenoiseLoop) -> None:
        """Progress, with a preview where one is due."""
        first, every = job.pictures[0], job.submit.preview_calls
        preview = None
        if every > 0 and first.place is not None and first.left and (job.calls - first.left) % every == 0:
            latents = self._maker.latents(loop, first.place.slot)
            input_scale = float(job.table.rows[job.calls - first.left, 0])
            preview = preview_picture(self._measured.preview(latents, input_scale))
        if preview is not None or job.is_to_be_told(monotonic()):
            self._send(job.progress(preview))

    def _finish(self, job: OpenJob, index: int, loop: DenoiseLoop) -> None:
        """Decode a picture that has had all its calls, and have it encoded."""
        picture = job.pictures[index]
        assert picture.place is not None
        clock = self._maker.clock
        clock.restart()
        with clock.stage("download"):
            latents: Latents = self._maker.latents(loop, picture.place.slot)
        picture.place = None
        if self._working:
            job.add_stages(clock.read_ms())
            self._beside(job, partial(self._decode_picture, job, index, latents), self._decoder)
            return
        with clock.stage("decode"):
            pixels = self._whole.decode(latents)
        job.decoded_s = monotonic()
        job.add_stages(clock.read_ms())
        self._beside(job, partial(self._encode_picture, job, index, pixels))


def serve(maker: PictureMaker, measured: Measured, connection: Connection, facts: Facts, tracks: Tracks | None) -> None:
    """Run a worker until it is done, and say so in the log."""
    log(
        "ready",
        slot_costs=str(measured.slot_costs),
        lanes=measured.lanes,
        fixed_ms=measured.fixed_ms,
        tracks=1 if tracks is None else tracks.count,
        track_costs=None if tracks is None else str(tracks.costs),
    )
    Worker(maker, measured, connection, facts, tracks).run()
    log("stopped")
