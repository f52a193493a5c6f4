"""Section ``driver``: the runtime's CUDA device through its own API alone, without torch and without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from time import perf_counter, perf_counter_ns, sleep
from typing import Any

import numpy as np

from instantrt.denoise import CARRIED, IN_FLIGHT, POLL_S
from instantrt.device import Buffer, Device, Event
from instantrt.device.host import HostDevice
from instantrt.errors import InstantRTError
from instantrt_bench.gpu_check.measure import median, spread
from instantrt_bench.gpu_check.options import Options
from instantrt_bench.gpu_check.report import Report

ROWS = 7  # of the ring; 300 launches turn it by 300 mod 7
LAUNCHES, ALLOCATIONS = 300, 30
BYTES, SMALL_BYTES = 256 << 20, 1 << 16
KEPT_BYTES = (0, 1 << 40)  # the pool gives freed memory back at every wait, as the runtime has it; or keeps all
BYTE = np.dtype(np.uint8)


def run(report: Report, options: Options) -> None:
    """Memory, allocations, a captured graph, and the host's time for what the loop does per call."""
    nbytes = SMALL_BYTES if options.dry_run else BYTES
    with report.step("memory"), _device(options) as device:
        memory(report, device, nbytes)
    for kept in KEPT_BYTES:
        with report.step(f"allocations, {'all' if kept else 'nothing'} kept"), _device(options, kept) as device:
            times = allocations(device, nbytes)
            report.add(**{f"host_us_allocate, {'all' if kept else 'nothing'} kept": spread(times)})
    with report.step("graph"), _device(options) as device:
        ring(report, device, LAUNCHES, SMALL_BYTES if options.dry_run else 1 << 20)
    with report.step("host times"), _device(options) as device:
        host_times(report, device, LAUNCHES)


def memory(report: Report, device: Device, nbytes: int) -> None:
    """What is allocated is zero, what goes up comes down, parts share memory; and how fast bytes move."""
    values = np.random.default_rng().integers(0, 256, (2, nbytes), np.uint8)
    with ExitStack() as owned:
        rows, other = (owned.enter_context(closing(device.allocate((2, nbytes), BYTE))) for _ in range(2))
        start, end = (owned.enter_context(closing(device.event())) for _ in range(2))
        report.check("bytes that are not zero at first", int(np.count_nonzero(device.download(rows))), 0)
        up_s = _seconds(lambda: device.upload(values, rows), lambda: device.download(rows.at(0).rows(1)))
        device.copy(rows.at(1), rows.at(0))
        device.stream.record(start)
        device.copy(rows, other)
        device.stream.record(end)
        begin = perf_counter()
        found = device.download(other)
        down_s = perf_counter() - begin
        report.check("wrong bytes after upload, copy, download", int(np.count_nonzero(found != values[1])), 0)
        report.add(
            upload_gbytes_per_s=2 * nbytes / up_s / 1e9,
            download_gbytes_per_s=2 * nbytes / down_s / 1e9,
            device_copy_gbytes_per_s=4 * nbytes / max(end.ms_since(start), 1e-6) / 1e6,
        )


def allocations(device: Device, nbytes: int) -> list[float]:
    """Microseconds for a buffer after the stream was waited for, when the pool may have given its memory back."""
    times = []
    with closing(device.allocate((1,), BYTE)) as other:
        for _ in range(ALLOCATIONS):
            start = perf_counter_ns()
            buffer = device.allocate((nbytes,), BYTE)
            times.append((perf_counter_ns() - start) / 1e3)
            buffer.close()
            device.download(other)  # waits
    return times


def ring(report: Report, device: Device, launches: int, row_bytes: int) -> None:
    """A captured ring of copies turns by one row a launch; at most ``IN_FLIGHT`` launches are unfinished."""
    rows = np.random.default_rng().integers(0, 256, (ROWS, row_bytes), np.uint8)
    with ExitStack() as owned:
        buffer = owned.enter_context(closing(device.allocate(rows.shape, rows.dtype)))
        spare = owned.enter_context(closing(device.allocate((row_bytes,), rows.dtype)))
        graph = owned.enter_context(closing(device.capture(lambda: _turn(device, buffer, spare))))
        marks = [owned.enter_context(closing(device.event())) for _ in range(launches + 1)]
        device.upload(rows, buffer)
        report.check("bytes changed by capturing", int(np.count_nonzero(device.download(buffer) != rows)), 0)
        device.stream.record(marks[0])
        for launch, mark in enumerate(marks[1:], 1):
            _wait_for(marks[max(launch - IN_FLIGHT, 0)])
            graph.launch()
            device.stream.record(mark)
        _wait_for(marks[-1])
        wrong = np.count_nonzero(device.download(buffer) != np.roll(rows, launches, 0))
        report.check("wrong bytes after the launches", int(wrong), 0)
        spans = [after.ms_since(before) for before, after in pairwise(marks)]
        report.check("events whose time runs backwards", sum(ms < 0 for ms in spans), 0)
        report.add(ring_launch_device_us=1e3 * median(spans))


def host_times(report: Report, device: Device, launches: int) -> None:
    """Microseconds of the host for what the loop does per call, with a graph of the loop's three copies."""
    with ExitStack() as owned:
        buffers = [owned.enter_context(closing(device.allocate((2, 4096), BYTE))) for _ in CARRIED]

        def copies() -> None:
            for buffer in buffers:
                device.copy(buffer.at(0), buffer.at(1))

        graph = owned.enter_context(closing(device.capture(copies)))
        marks = [owned.enter_context(closing(device.event())) for _ in range(launches)]
        times = []
        for index, mark in enumerate(marks):
            start = perf_counter_ns()
            graph.launch()
            device.stream.record(mark)
            _ = marks[max(index - IN_FLIGHT, 0)].is_done
            times.append((perf_counter_ns() - start) / 1e3)
            if index >= IN_FLIGHT:
                _wait_for(marks[index - IN_FLIGHT])
        _wait_for(marks[-1])
    report.add(host_us_launch_record_query=spread(times))


@contextmanager
def _device(options: Options, kept_bytes: int = 0) -> Iterator[Device]:
    """The GPU; in a dry run without any, host memory."""
    device: Any
    try:
        from instantrt.device.cuda import CudaDevice

        device = CudaDevice(kept_bytes=kept_bytes)
    except InstantRTError:
        if not options.dry_run:
            raise
        device = HostDevice()
    with closing(device):
        yield device


def _turn(device: Device, rows: Buffer, spare: Buffer) -> None:
    device.copy(rows.at(ROWS - 1), spare)
    for row in range(ROWS - 1, 0, -1):
        device.copy(rows.at(row - 1), rows.at(row))
    device.copy(spare, rows.at(0))


def _wait_for(event: Event) -> None:
    while not event.is_done:
        sleep(POLL_S)


def _seconds(work: Callable[[], Any], wait: Callable[[], Any]) -> float:
    """Wall time of ``work`` and everything before ``wait`` returns, the second time it runs."""
    for _ in range(2):
        start = perf_counter()
        work()
        wait()
        seconds = perf_counter() - start
    return seconds
