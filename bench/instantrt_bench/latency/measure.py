"""Times one scenario on several systems: untimed runs first, then rounds in which every system answers one request.

All systems of a round get the same request, and who goes first changes from round to round, so that drift of the
machine hits all alike. Every timed picture is held against the reference's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from instantrt import GenerateRequest
from instantrt_bench.latency.gpu import GpuMonitor, GpuReading
from instantrt_bench.latency.scenario import Requests, Scenario
from instantrt_bench.latency.systems import Opener, Sample, SystemSpec, open_system
from instantrt_bench.latency.worker import Answer, Worker, WorkerError
from instantrt_bench.results.files import Status
from instantrt_bench.results.machine import CpuTimes
from instantrt_bench.results.metrics import psnr_db, ssim
from instantrt_bench.results.statistics import median_interval
from instantrt_bench.results.systems import REFERENCES, psnr_floor_db

FEWEST_SAMPLES = 6  # below, no two of them enclose the median with 95 % confidence
OnRound = Callable[[int, int], None]
NO_GPUS: Mapping[str, GpuMonitor] = MappingProxyType({})


@dataclass(frozen=True)
class Rules:
    """How long to measure, and what counts as a right picture.

    Args:
        warm_up: untimed requests of each system before a scenario, at least 1.
        min_samples: timed requests of each system, at least.
        max_samples: and at most.
        noise: stop between the two when the 95 % interval of every system's median is within this share of it.
        max_seconds: of a scenario's timed part; it ends a scenario before ``min_samples``, but not before
            :data:`FEWEST_SAMPLES`.
        min_psnr_db: of every timed picture against the reference's of the same request; lower where the table of
            systems has another floor for one of the two.
    """

    warm_up: int = 2
    min_samples: int = 20
    max_samples: int = 40
    noise: float = 0.02
    max_seconds: float = 600.0
    min_psnr_db: float = 30.0

    def reason_to_stop(self, latencies_ms: Sequence[Sequence[float]], seconds: float) -> str | None:
        """``"noise"``, ``"ceiling"`` or ``"time"``, or None to go on. One sequence per system still running."""
        rounds = max((len(samples) for samples in latencies_ms), default=self.max_samples)
        if rounds >= self.max_samples:
            return "ceiling"
        if rounds >= self.min_samples and all(relative_noise(samples) <= self.noise for samples in latencies_ms):
            return "noise"
        return "time" if seconds > self.max_seconds and rounds >= min(FEWEST_SAMPLES, self.min_samples) else None


@dataclass(frozen=True)
class ColdStart:
    """From nothing to the first pictures, in a new process."""

    import_ms: float
    load_ms: float
    first_request_ms: float

    @property
    def total_ms(self) -> float:
        """All of it."""
        return self.import_ms + self.load_ms + self.first_request_ms

    def to_json(self) -> dict[str, float]:
        """Plain data."""
        return {name: round(ms, 1) for name, ms in {**asdict(self), "total_ms": self.total_ms}.items()}


@dataclass
class Track:
    """What one system did in one scenario."""

    name: str
    status: Status = "ok"
    error: str | None = None
    cold_start: ColdStart | None = None
    warm_up_ms: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)  # without their pictures
    psnr_db: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    peak_host_bytes: list[int] = field(default_factory=list)
    peak_device_bytes: list[int] = field(default_factory=list)
    energy_mj: list[int] = field(default_factory=list)

    @property
    def running(self) -> bool:
        """Whether it still takes part."""
        return self.status == "ok"

    @property
    def latencies_ms(self) -> list[float]:
        """Of the timed requests."""
        return [sample.latency_ms for sample in self.samples]

    def fail(self, error: object) -> None:
        """Take it out of the scenario; what it did until now stays."""
        self.status, self.error = "failed", str(error)


@dataclass
class Measurement:
    """A scenario as far as it was measured."""

    scenario: Scenario
    tracks: dict[str, Track]
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))
    judge: str | None = None
    stopped: str = "interrupted"  # by "noise", "ceiling", "time", or when no system was left
    foreign_cpus: float | None = None  # CPUs that other processes kept busy, on average; None if unknown
    readings: list[GpuReading] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)

    @property
    def interrupted(self) -> bool:
        """Whether the user ended it."""
        return any(track.status == "interrupted" for track in self.tracks.values())


class Fleet:
    """One worker per system, started when first needed and again after a crash. A context manager.

    Args:
        specs: the systems.
        opener: loads them.
    """

    def __init__(self, specs: Sequence[SystemSpec], opener: Opener = open_system) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self._opener = opener
        self._workers: dict[str, Worker] = {}
        self._unloadable: dict[str, WorkerError] = {}

    @property
    def workers(self) -> Mapping[str, Worker]:
        """Those that are up."""
        return self._workers

    def worker(self, name: str) -> tuple[Worker, bool]:
        """The system's worker, and whether it is new.

        Raises:
            WorkerError: the system cannot be loaded; it is not tried a second time.
        """
        if name in self._unloadable:
            raise self._unloadable[name]
        if name in self._workers:
            return self._workers[name], False
        try:
            self._workers[name] = Worker(self.specs[name], self._opener)
        except WorkerError as error:
            self._unloadable[name] = error
            raise
        return self._workers[name], True

    def drop(self, name: str) -> None:
        """End a worker that failed, so that the next scenario gets a new one."""
        worker = self._workers.pop(name, None)
        if worker is not None:
            worker.close()

    def close(self) -> None:
        """End all; may be called more than once."""
        for name in list(self._workers):
            self.drop(name)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def measure(
    fleet: Fleet,
    scenario: Scenario,
    requests: Requests,
    rules: Rules,
    *,
    gpus: Mapping[str, GpuMonitor] = NO_GPUS,
    on_round: OnRound | None = None,
) -> Measurement:
    """Measure one scenario. What fails is marked as failed and the others go on; so is what the user interrupts.

    Args:
        fleet: the systems.
        scenario: what they are asked.
        requests: gives requests of which none helps another.
        rules: how long.
        gpus: by system, what watches the GPU on which it runs.
        on_round: called with (rounds done, rounds at most).
    """
    measurement = Measurement(scenario, {name: Track(name) for name in fleet.specs})
    try:
        _warm_up(fleet, measurement, [requests.next(scenario) for _ in range(max(1, rules.warm_up))])
        _time(fleet, measurement, requests, rules, gpus, on_round)
    except KeyboardInterrupt:
        for track in measurement.tracks.values():
            if track.running:
                track.status = "interrupted"
    return measurement


def relative_noise(samples: Sequence[float]) -> float:
    """Half the width of the median's interval over the median."""
    interval = median_interval(samples)
    return (interval.high - interval.low) / 2 / interval.estimate


def picture_problem(pixels: npt.NDArray[np.uint8], scenario: Scenario) -> str | None:
    """What is wrong with pictures by themselves, None if nothing is."""
    expected = (scenario.samples, scenario.height, scenario.width, 3)
    if pixels.shape != expected or pixels.dtype != np.uint8:
        return f"the pictures are {pixels.dtype} {pixels.shape} instead of uint8 {expected}"
    if any(picture.min() == picture.max() for picture in pixels):
        return "a picture is of one colour"
    return None


def _warm_up(fleet: Fleet, measurement: Measurement, requests: Sequence[GenerateRequest]) -> None:
    for name, track in measurement.tracks.items():
        try:
            worker, new = fleet.worker(name)
            measurement.pids.add(worker.pid)
            worker.forget_peak()
            track.warm_up_ms = [worker.run(request).sample.latency_ms for request in requests]
        except WorkerError as error:
            track.fail(error)
            fleet.drop(name)
            continue
        if new:
            track.cold_start = ColdStart(worker.opened.import_ms, worker.opened.load_ms, track.warm_up_ms[0])


def _time(
    fleet: Fleet,
    measurement: Measurement,
    requests: Requests,
    rules: Rules,
    gpus: Mapping[str, GpuMonitor],
    on_round: OnRound | None,
) -> None:
    measurement.judge = next(
        (name for name in REFERENCES if name in measurement.tracks and measurement.tracks[name].running), None
    )
    cpu, cpu_s, start = CpuTimes.now(), _cpu_s(fleet), time.perf_counter()
    rounds = 0
    while True:
        running = [track for track in measurement.tracks.values() if track.running]
        if not running:
            measurement.stopped = "no system left"
            return
        shift = rounds % len(running)
        _round(fleet, measurement, running[shift:] + running[:shift], requests.next(measurement.scenario), rules, gpus)
        rounds += 1
        if cpu is not None:
            measurement.foreign_cpus = cpu.foreign_cpus_since(_cpu_s(fleet) - cpu_s)
        if on_round is not None:
            on_round(rounds, rules.max_samples)
        latencies_ms = [track.latencies_ms for track in measurement.tracks.values() if track.running]
        reason = rules.reason_to_stop(latencies_ms, time.perf_counter() - start)
        if reason is not None and latencies_ms:
            measurement.stopped = reason
            return


def _round(
    fleet: Fleet,
    measurement: Measurement,
    order: Sequence[Track],
    request: GenerateRequest,
    rules: Rules,
    gpus: Mapping[str, GpuMonitor],
) -> None:
    """One request to each system, then a look at all pictures."""
    answers: dict[str, Answer] = {}
    for track in order:
        gpu = gpus.get(track.name)
        before = gpu.read() if gpu else None
        try:
            answers[track.name] = fleet.worker(track.name)[0].run(request)
        except WorkerError as error:
            track.fail(error)
            fleet.drop(track.name)
            continue
        if gpu is not None and before is not None:
            _note_gpu(measurement, track, fleet.worker(track.name)[0].pid, before, gpu.read())
    for track in order:
        if track.name in answers:
            _judge(measurement, track, answers, rules)


def _judge(measurement: Measurement, track: Track, answers: Mapping[str, Answer], rules: Rules) -> None:
    """Keep a sample if its pictures are right; fail the system if they are not."""
    answer = answers[track.name]
    pixels = answer.sample.pixels
    problem = picture_problem(pixels, measurement.scenario)
    judge = answers.get(measurement.judge) if measurement.judge is not None else None
    if problem is None and judge is not None and judge is not answer and judge.sample.pixels.shape == pixels.shape:
        track.psnr_db.append(psnr_db(pixels, judge.sample.pixels))
        track.ssim.append(ssim(pixels, judge.sample.pixels))
        floor_db = psnr_floor_db([track.name, str(measurement.judge)], rules.min_psnr_db)
        if track.psnr_db[-1] < floor_db:
            problem = f"a picture is {track.psnr_db[-1]:.1f} dB from {measurement.judge}'s, below {floor_db:g} dB"
    if problem is not None:
        track.fail(f"wrong output in timed run {len(track.samples) + 1}: {problem}")
        return
    track.samples.append(_without_pictures(answer.sample))
    if answer.peak_bytes is not None:
        track.peak_host_bytes.append(answer.peak_bytes)
    if answer.sample.peak_device_bytes is not None:
        track.peak_device_bytes.append(answer.sample.peak_device_bytes)


def _note_gpu(measurement: Measurement, track: Track, pid: int, before: GpuReading, after: GpuReading) -> None:
    measurement.readings.append(after)
    if before.energy_mj is not None and after.energy_mj is not None:
        track.energy_mj.append(after.energy_mj - before.energy_mj)
    memory = (after.memory_bytes or {}).get(pid)
    if memory is not None:
        track.peak_device_bytes.append(memory)


def _without_pictures(sample: Sample) -> Sample:
    return replace(sample, pixels=sample.pixels[:0], latents=sample.latents[:0])


def _cpu_s(fleet: Fleet) -> float:
    return sum(worker.cpu_s for worker in fleet.workers.values())
