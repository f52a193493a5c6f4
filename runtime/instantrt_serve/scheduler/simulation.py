"""A fleet of devices under load, as events in a queue: the real policy and admission, without clocks and networks.

Service times are those of a benchmark's result file. Requests arrive at random (a Poisson process), each goes to the
less busy of two devices drawn at random, and its device's policy decides from there. The same requests on the same
devices are also served first come, first served, for comparison.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from statistics import median
from typing import Any

from instantrt.denoise import LoopShape
from instantrt_serve.admission import Accepted, AdmissionLimits, OpenWork, admit
from instantrt_serve.scheduler.device import CountingDevice
from instantrt_serve.scheduler.policy import Job, Limits, Picture

STEPS = {4: 0.3, 10: 0.4, 30: 0.25, 100: 0.05}
SAMPLES = {1: 0.8, 2: 0.1, 4: 0.1}
SHAPES = {LoopShape(1, 2, 1024, 1024): 0.7, LoopShape(1, 1, 1024, 1024): 0.2, LoopShape(1, 2, 768, 1344): 0.1}
ACCOUNTS = 50
SHORT_STEPS = 4


@dataclass(frozen=True)
class ServiceTimes:
    """Of one device, in milliseconds: a network call with guidance, and what a request takes outside the loop."""

    call_ms: float
    fixed_ms: float

    @classmethod
    def of_results(cls, results: Mapping[str, Any], system: str) -> ServiceTimes:
        """The medians over all scenarios of a latency result file's plain data.

        Raises:
            KeyError: it has no such system.
        """
        samples = [scenario["systems"][system]["samples"] for scenario in results["scenarios"]]
        calls = [ms for one in samples for ms in one["call_ms"]]
        fixed = [
            total - denoise
            for one in samples
            for total, denoise in zip(one["latency_ms"], one["stages_ms"]["denoise"], strict=True)
        ]
        return cls(median(calls), median(fixed))

    def scaled(self, factor: float) -> ServiceTimes:
        """Those of a device that is so many times slower."""
        return ServiceTimes(self.call_ms * factor, self.fixed_ms * factor)


@dataclass(frozen=True)
class Load:
    """What is asked for.

    Args:
        requests_per_s: of all accounts together.
        seconds: for which requests arrive.
        devices: that serve them.
        deadline_s: of every request.
        seed: of all that is random.
    """

    requests_per_s: float = 1000.0
    seconds: float = 10.0
    devices: int = 64
    deadline_s: float = 60.0
    seed: int = 0


@dataclass(frozen=True)
class Arrival:
    """A request."""

    at_s: float
    account: str
    steps: int
    samples: int
    shape: LoopShape

    def call_ms(self, times: ServiceTimes) -> float:
        """Of one picture: half without guidance."""
        return times.call_ms * self.shape.guidance_batch / 2

    def work_ms(self, times: ServiceTimes) -> float:
        """Of the whole request."""
        return self.call_ms(times) * self.steps * self.samples + times.fixed_ms


def arrivals(load: Load) -> list[Arrival]:
    """Requests in the order of their arrival. A few accounts send most of them."""
    random = Random(load.seed)  # noqa: S311 - a simulation
    accounts = {f"account-{n}": 1 / (n + 1) for n in range(ACCOUNTS)}
    made, now_s = [], random.expovariate(load.requests_per_s)
    while now_s < load.seconds:
        account, steps, samples, shape = (_drawn(random, odds) for odds in (accounts, STEPS, SAMPLES, SHAPES))
        made.append(Arrival(now_s, account, steps, samples, shape))
        now_s += random.expovariate(load.requests_per_s)
    return made


def utilisation(load: Load, times: ServiceTimes) -> float:
    """Work asked for per second, as a share of what all devices can do."""
    work_s = sum(arrival.work_ms(times) for arrival in arrivals(load)) / 1e3
    return work_s / (load.seconds * load.devices)


@dataclass
class Outcome:
    """What became of the requests, by their place in the order of arrival; latencies in seconds."""

    device: dict[int, int] = field(default_factory=dict)
    latency_s: dict[int, float] = field(default_factory=dict)
    refused: list[int] = field(default_factory=list)
    expired: list[int] = field(default_factory=list)
    turns: int = 0


def simulate(load: Load, times: ServiceTimes, limits: Limits, admission: AdmissionLimits) -> Outcome:
    """Serve a load with the real policy. What a request takes outside the loop is that of ``times``."""
    requests, random, outcome = arrivals(load), Random(load.seed + 1), Outcome()  # noqa: S311 - a simulation
    devices = [CountingDevice(replace(limits, fixed_ms=times.fixed_ms)) for _ in range(load.devices)]
    open_work: list[dict[str, OpenWork]] = [{} for _ in devices]
    busy = [False] * load.devices
    events = [(request.at_s, number, -1) for number, request in enumerate(requests)]
    heapq.heapify(events)
    while events:
        now_s, number, at = heapq.heappop(events)
        if at < 0:
            at = min(random.sample(range(load.devices), min(2, load.devices)), key=lambda n: devices[n].left_ms)
            request = requests[number]
            work = OpenWork(request.account, request.work_ms(times))
            if not isinstance(admit(work, _left(devices[at], open_work[at]), admission, load.deadline_s), Accepted):
                outcome.refused.append(number)
                continue
            open_work[at][str(number)] = work
            outcome.device[number] = at
            devices[at].add(_job(str(number), request, times, now_s + load.deadline_s), request.account)
            if busy[at]:
                continue
        turn = devices[at].turn(now_s)
        busy[at] = turn is not None
        if turn is None:
            continue
        outcome.turns += 1
        for ended in turn[1]:
            del open_work[at][ended.job]
            index = int(ended.job)
            if ended.is_done:
                outcome.latency_s[index] = ended.at_s - requests[index].at_s
            else:
                outcome.expired.append(index)
        heapq.heappush(events, (now_s + turn[0], len(requests), at))
    return outcome


def first_come(load: Load, times: ServiceTimes, admitted: Mapping[int, int]) -> dict[int, float]:
    """Latencies in seconds of the same requests when each device serves its own in the order of their arrival.

    Args:
        load: what is asked for.
        times: of a device.
        admitted: the device of each request that is served.
    """
    requests, free_s, latency_s = arrivals(load), [0.0] * load.devices, {}
    for number, at in sorted(admitted.items()):
        free_s[at] = max(free_s[at], requests[number].at_s) + requests[number].work_ms(times) / 1e3
        latency_s[number] = free_s[at] - requests[number].at_s
    return latency_s


def report(load: Load, times: ServiceTimes, outcome: Outcome) -> dict[str, Any]:
    """The outcome in figures."""
    requests = arrivals(load)
    done = sorted(outcome.latency_s)
    fifo = first_come(load, times, {number: outcome.device[number] for number in done})
    short = [number for number in done if requests[number].steps == SHORT_STEPS and requests[number].samples == 1]
    latencies = sorted(outcome.latency_s.values())
    known = len(done) + len(outcome.refused) + len(outcome.expired)
    return {
        "requests": len(requests),
        "done": len(done),
        "refused": len(outcome.refused),
        "expired": len(outcome.expired),
        "lost": len(requests) - known,
        "utilisation": round(utilisation(load, times), 3),
        "turns": outcome.turns,
        **{f"p{q}_ms": _percentile_ms(latencies, q) for q in (50, 95, 99)},
        "fifo_p50_ms": _percentile_ms(sorted(fifo.values()), 50),
        "short_p95_ms": _percentile_ms(sorted(outcome.latency_s[n] for n in short), 95),
        "fifo_short_p95_ms": _percentile_ms(sorted(fifo[n] for n in short), 95),
        "service_times_ms": {"call": round(times.call_ms, 3), "fixed": round(times.fixed_ms, 3)},
    }


def _drawn(random: Random, odds: Mapping[Any, float]) -> Any:
    return random.choices(list(odds), list(odds.values()))[0]


def _job(name: str, request: Arrival, times: ServiceTimes, deadline_s: float) -> Job:
    pictures = (Picture(request.steps),) * request.samples
    return Job(name, request.shape, pictures, request.call_ms(times), deadline_s)


def _left(device: CountingDevice, taken: Mapping[str, OpenWork]) -> Iterator[OpenWork]:
    for name, work in taken.items():
        yield OpenWork(work.account, device.jobs[name].left_ms + device.limits.fixed_ms)


def _percentile_ms(ordered: Sequence[float], percent: int) -> float | None:
    return round(1e3 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 1) if ordered else None
