"""The stand-in driver: it does what a driver does, and catches what a driver forbids or only a GPU would show.

Runs below the stand-in only (test_on_the_cuda_double.py); what works on a GPU too is in test_cuda_device.py.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings")
pytest.importorskip("cuda.core", reason="needs cuda-core")

from cuda import core
from cuda.bindings import driver

from doubles.cuda_double import CudaDouble
from instantrt.device.check import driver_errors
from instantrt.device.cuda import CudaBuffer, CudaDevice
from instantrt.errors import DeviceError

F32 = np.dtype(np.float32)
OUT_OF_MEMORY, ILLEGAL_ADDRESS = 2, 700


@pytest.fixture
def device(cuda_double: CudaDouble) -> Iterator[CudaDevice]:
    """A device whose tests may break rules, but must leave nothing behind."""
    before = cuda_double.live()
    with CudaDevice() as device:
        cuda_double.clear_log()
        yield device
    gc.collect()
    assert cuda_double.live() == before


def code(result: tuple[Any, ...]) -> int:
    """The driver's answer as a number."""
    return int(result[0])


def copy(device: CudaDevice, source: CudaBuffer, destination: CudaBuffer, nbytes: int) -> int:
    """A raw driver copy, without the checks of ours."""
    return code(driver.cuMemcpyAsync(destination.address, source.address, nbytes, device.stream.handle))


def test_a_function_that_the_driver_lacks_is_an_error_of_ours(device: CudaDevice) -> None:
    with (
        pytest.raises(DeviceError, match="asking about peers needs a newer driver") as error,
        driver_errors("asking about peers"),
    ):
        driver.cuDeviceCanAccessPeer(0, 0)  # which the stand-in does not have
    assert "cuDeviceCanAccessPeer is not found" in str(error.value.found)
    assert "update NVIDIA's driver" in str(error.value.hint)


# ---- what it does ----


def test_fresh_memory_is_not_zero_and_device_memory_is_not_the_hosts(
    device: CudaDevice, cuda_double: CudaDouble
) -> None:
    _, address = driver.cuMemAlloc(16)
    assert np.isnan(cuda_double.view(int(address), (4,), F32)).all()
    with pytest.raises(ValueError, match="not inside one live allocation"):
        cuda_double.view(int(address) + 8, (4,), F32)
    driver.cuMemFree(address)
    with pytest.raises(ValueError, match="not inside one live allocation"):
        cuda_double.view(int(address), (4,), F32)


def test_work_runs_when_the_host_waits_and_not_before(device: CudaDevice, cuda_double: CudaDouble) -> None:
    ran: list[str] = []
    device.stream.submit(lambda: ran.append("first"))
    device.stream.submit(lambda: ran.append("second"))
    assert ran == []
    device.synchronize()
    assert ran == ["first", "second"]


def test_each_poll_lets_one_operation_run(device: CudaDevice) -> None:
    device.synchronize()
    ran: list[int] = []
    for i in range(3):
        device.stream.submit(lambda i=i: ran.append(i))
    event = device.event()
    device.stream.record(event)
    seen = [(event.is_done, len(ran)) for _ in range(5)]
    assert seen == [(False, 1), (False, 2), (False, 3), (False, 3), (True, 3)]


def test_a_full_queue_runs_its_oldest_work(device: CudaDevice) -> None:
    ran: list[int] = []
    for i in range(1030):
        device.stream.submit(lambda i=i: ran.append(i))
    assert ran == list(range(len(ran)))
    assert 0 < len(ran) < 1030


def test_the_log_tells_calls_and_what_ran(device: CudaDevice, cuda_double: CudaDouble) -> None:
    source, destination = device.allocate((8,), F32), device.allocate((8,), F32)
    graph = device.capture(lambda: device.copy(source, destination))
    device.synchronize()
    cuda_double.clear_log()
    graph.launch()
    graph.launch()
    names = [entry.name for entry in cuda_double.calls()]
    assert names == ["cuCtxSetCurrent", "cuGraphLaunch"] * 2
    assert cuda_double.runs() == []
    device.synchronize()
    copies = [entry for entry in cuda_double.runs() if "graph" in entry.members]
    assert [(entry.name, entry.members["bytes"]) for entry in copies] == [("copy DtoD", 32)] * 2
    assert cuda_double.count("cuGraphLaunch") == cuda_double.count("run:copy DtoD") == 2
    assert {entry.members["stream"] for entry in copies} == {device.stream.handle}


def test_the_log_can_be_left_out_while_counts_go_on(device: CudaDevice, cuda_double: CudaDouble) -> None:
    cuda_double.keep_log(False)
    device.synchronize()
    assert cuda_double.log() == []
    assert cuda_double.count("cuStreamSynchronize") == 1


def test_transfers_of_the_device_are_pinned_and_asynchronous(device: CudaDevice, cuda_double: CudaDouble) -> None:
    buffer = device.allocate((8,), F32)
    device.upload(np.ones(8, np.float32), buffer)
    device.download_all([buffer, buffer.at(3)])
    copies = cuda_double.calls("cuMemcpyAsync")
    assert [entry.members["direction"] for entry in copies] == ["HtoD", "DtoH", "DtoH"]
    assert not any("pageable" in entry.members for entry in copies)
    assert cuda_double.count("cuStreamSynchronize") == 1


def test_a_pageable_copy_shows_in_the_log(device: CudaDevice, cuda_double: CudaDouble) -> None:
    buffer, host = device.allocate((8,), F32), np.arange(8, dtype=np.float32)
    assert code(driver.cuMemcpyHtoDAsync(buffer.address, host.ctypes.data, 32, device.stream.handle)) == 0
    host[:] = 0
    np.testing.assert_array_equal(device.download(buffer), np.arange(8))
    assert cuda_double.calls("cuMemcpyHtoDAsync")[0].members["pageable"]


def test_freed_memory_can_be_had_again_and_no_more_than_there_is(device: CudaDevice, cuda_double: CudaDouble) -> None:
    device.synchronize()
    cuda_double.limit_memory(10_000)
    for _ in range(5):
        device.allocate((6_000,), np.dtype(np.uint8)).close()
    kept = device.allocate((6_000,), np.dtype(np.uint8))
    with pytest.raises(DeviceError, match="allocating") as error:
        device.allocate((6_000,), np.dtype(np.uint8))
    assert error.value.driver_code == "CUDA_ERROR_OUT_OF_MEMORY"
    kept.close()
    device.allocate((6_000,), np.dtype(np.uint8))


# ---- mistakes with memory ----


def test_a_copy_out_of_bounds_is_refused(device: CudaDevice, cuda_double: CudaDouble) -> None:
    small, large = device.allocate((4,), F32), device.allocate((5,), F32)
    assert copy(device, large, small, 20) == 1
    assert copy(device, small, large, 20) == 1
    assert cuda_double.broken_rules() == ["out of bounds"] * 2


def test_overlapping_copies_are_refused(device: CudaDevice, cuda_double: CudaDouble) -> None:
    buffer = device.allocate((8,), F32)
    assert copy(device, buffer.at(0), buffer.at(1), 8) == 1
    assert cuda_double.broken_rules() == ["copy between overlapping ranges"]


def test_memory_freed_twice_is_refused(device: CudaDevice, cuda_double: CudaDouble) -> None:
    _, address = driver.cuMemAlloc(16)
    assert code(driver.cuMemFree(address)) == 0
    assert code(driver.cuMemFree(address)) == 1
    assert cuda_double.broken_rules() == ["free of something not allocated"]


def test_memory_used_after_it_was_freed_is_refused(device: CudaDevice, cuda_double: CudaDouble) -> None:
    buffer, other = device.allocate((4,), F32), device.allocate((4,), F32)
    address = buffer.address
    buffer.close()
    assert code(driver.cuMemcpyAsync(other.address, address, 16, device.stream.handle)) == 1
    device.synchronize()
    assert code(driver.cuMemcpyAsync(other.address, address, 16, device.stream.handle)) == 1
    assert cuda_double.broken_rules() == ["use of freed memory", "use of memory that is not allocated"]


def test_a_buffer_freed_while_a_graph_still_uses_it_is_caught(device: CudaDevice, cuda_double: CudaDouble) -> None:
    source, destination = device.allocate((4,), F32), device.allocate((4,), F32)
    graph = device.capture(lambda: device.copy(source, destination))
    graph.launch()
    source.close()  # after the launch in stream order: that launch is fine
    device.synchronize()
    assert cuda_double.broken_rules() == []
    graph.launch()
    with pytest.raises(DeviceError, match="restart the process") as error:
        device.synchronize()
    assert error.value.driver_code == "CUDA_ERROR_ILLEGAL_ADDRESS"
    with pytest.raises(DeviceError, match="launching a graph"):  # a failed context stays failed
        graph.launch()
    assert cuda_double.broken_rules() == ["memory was freed before the work that uses it ran"]


def test_pinned_memory_freed_under_a_waiting_copy_is_caught(device: CudaDevice, cuda_double: CudaDouble) -> None:
    buffer = device.allocate((4,), F32)
    _, pinned = driver.cuMemAllocHost(16)
    driver.cuMemcpyHtoDAsync(buffer.address, pinned, 16, device.stream.handle)
    assert code(driver.cuMemFreeHost(pinned)) == 1
    assert cuda_double.broken_rules() == ["pinned memory freed while a copy of it is waiting"]
    device.synchronize()
    assert code(driver.cuMemFreeHost(pinned)) == 0


def test_pinned_memory_written_too_early_reaches_the_device(device: CudaDevice) -> None:
    buffer = device.allocate((4,), F32)
    _, pinned = driver.cuMemAllocHost(16)
    staged = np.frombuffer((np.ctypeslib.ctypes.c_float * 4).from_address(pinned), np.float32)
    staged[:] = 1
    driver.cuMemcpyHtoDAsync(buffer.address, pinned, 16, device.stream.handle)
    staged[:] = 2  # the mistake: nobody waited for the copy
    np.testing.assert_array_equal(device.download(buffer), [2] * 4)
    driver.cuMemFreeHost(pinned)


# ---- mistakes with order ----


@pytest.fixture
def two(cuda_double: CudaDouble) -> Iterator[tuple[CudaDevice, CudaDevice]]:
    before = cuda_double.live()
    with CudaDevice() as first, CudaDevice() as second:
        yield first, second
    gc.collect()
    assert cuda_double.live() == before


def touch(device: CudaDevice, double: CudaDouble, buffer: CudaBuffer, *, writes: bool) -> None:
    """A host function that stands for an engine reading or writing a buffer."""
    double.will_access(device.stream.handle, buffer.address, buffer.nbytes, writes=writes)
    device.stream.submit(lambda: None)


def order(after: CudaDevice, before: CudaDevice) -> None:
    """Let one device's stream wait for the other's."""
    event = before.event()
    before.stream.record(event)
    assert code(driver.cuStreamWaitEvent(after.stream.handle, event.raw.handle, 0)) == 0


@pytest.mark.parametrize("writes", [(True, True), (True, False), (False, True)])
def test_two_streams_on_the_same_memory_without_order_are_caught(
    two: tuple[CudaDevice, CudaDevice], cuda_double: CudaDouble, writes: tuple[bool, bool]
) -> None:
    first, second = two
    arena = first.allocate((64,), F32)
    first.synchronize()
    touch(first, cuda_double, arena.rows(32), writes=writes[0])
    with pytest.raises(DeviceError, match="host function") as error:
        touch(second, cuda_double, arena.rows(40), writes=writes[1])
    assert error.value.driver_code == "CUDA_ERROR_LAUNCH_FAILED"
    assert cuda_double.broken_rules() == ["no order between two streams' work on the same memory"]


def test_two_streams_may_read_together_or_use_different_memory(
    two: tuple[CudaDevice, CudaDevice], cuda_double: CudaDouble
) -> None:
    first, second = two
    arena = first.allocate((2, 32), F32)
    first.synchronize()
    touch(first, cuda_double, arena, writes=False)
    touch(second, cuda_double, arena, writes=False)
    first.synchronize()
    second.synchronize()
    touch(first, cuda_double, arena.at(0), writes=True)
    touch(second, cuda_double, arena.at(1), writes=True)
    second.synchronize()  # the arena is freed on the first stream
    assert cuda_double.broken_rules() == []


@pytest.mark.parametrize("how", ["event", "host wait"])
def test_order_between_streams_is_recognised_and_kept(
    two: tuple[CudaDevice, CudaDevice], cuda_double: CudaDouble, how: str
) -> None:
    first, second = two
    ran: list[str] = []
    arena = first.allocate((8,), F32)
    first.stream.submit(lambda: ran.append("first"))
    touch(first, cuda_double, arena, writes=True)
    if how == "event":
        order(second, first)
    else:
        first.synchronize()
    touch(second, cuda_double, arena, writes=True)
    second.stream.submit(lambda: ran.append("second"))
    second.synchronize()
    assert ran == ["first", "second"]
    assert cuda_double.broken_rules() == []


def test_memory_is_not_used_on_another_stream_before_it_is_allocated_nor_freed_before_it_was_used(
    two: tuple[CudaDevice, CudaDevice], cuda_double: CudaDouble
) -> None:
    first, second = two
    buffer = first.allocate((8,), F32)
    with pytest.raises(DeviceError):
        touch(second, cuda_double, buffer, writes=False)
    order(second, first)
    touch(second, cuda_double, buffer, writes=False)
    assert code(driver.cuMemFreeAsync(buffer.address, first.stream.handle)) == 719
    assert len(cuda_double.broken_rules()) == 2
    second.synchronize()


def test_launches_of_graphs_are_ordered_like_other_work(
    two: tuple[CudaDevice, CudaDevice], cuda_double: CudaDouble
) -> None:
    first, second = two
    arena = first.allocate((8,), F32)
    first.synchronize()
    graphs = [device.capture(lambda d=device: touch(d, cuda_double, arena, writes=True)) for device in two]
    graphs[0].launch()
    with pytest.raises(DeviceError, match="launching a graph"):
        graphs[1].launch()
    order(second, first)
    graphs[1].launch()
    second.synchronize()


def test_a_host_function_must_not_use_the_driver(device: CudaDevice, cuda_double: CudaDouble) -> None:
    answers: list[int] = []
    device.stream.submit(lambda: answers.append(code(driver.cuMemGetInfo())))
    device.synchronize()
    assert answers == [800]
    assert cuda_double.broken_rules() == ["driver call inside a host function"]


# ---- mistakes with captures ----

UNSAFE: dict[str, Callable[[CudaDevice], Any]] = {
    "allocation": lambda _: driver.cuMemAlloc(16),
    "pinned allocation": lambda _: driver.cuMemAllocHost(16),
    "pool allocation": lambda device: driver.cuMemAllocAsync(16, device.stream.handle),
    "stream wait": lambda device: driver.cuStreamSynchronize(device.stream.handle),
    "context wait": lambda _: driver.cuCtxSynchronize(),
    "query": lambda device: driver.cuStreamQuery(device.stream.handle),
    "synchronous copy": lambda _: driver.cuMemcpyDtoH(0, 0, 4),
}


@pytest.mark.parametrize("what", UNSAFE)
def test_what_a_capture_forbids_breaks_it(device: CudaDevice, cuda_double: CudaDouble, what: str) -> None:
    answers: list[int] = []
    with pytest.raises(DeviceError, match="capturing a graph") as error:
        device.capture(lambda: answers.append(code(UNSAFE[what](device))))
    assert answers == [900]
    assert error.value.driver_code == "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
    assert cuda_double.broken_rules() == ["not allowed during capture"]
    device.capture(lambda: None)  # the stream is usable again


def test_waiting_inside_a_capture_says_what_was_wrong(device: CudaDevice) -> None:
    with pytest.raises(DeviceError, match="before the capture") as error:
        device.capture(device.synchronize)
    assert error.value.driver_code == "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"


def test_other_threads_may_allocate_during_a_capture(device: CudaDevice) -> None:
    answers: list[int] = []

    def allocate() -> None:
        driver.cuCtxSetCurrent(driver.cuDevicePrimaryCtxRetain(0)[1])
        error, address = driver.cuMemAlloc(16)
        answers.extend([int(error), code(driver.cuMemFree(address)), code(driver.cuDevicePrimaryCtxRelease(0))])

    def work() -> None:
        thread = threading.Thread(target=allocate)
        thread.start()
        thread.join()

    device.capture(work)
    assert answers == [0, 0, 0]


def test_a_fork_that_is_not_joined_breaks_the_capture(
    two: tuple[CudaDevice, CudaDevice], cuda_double: CudaDouble
) -> None:
    first, second = two
    fork = first.event()

    def work(join: bool) -> None:
        driver.cuEventRecord(fork.raw.handle, first.stream.handle)
        driver.cuStreamWaitEvent(second.stream.handle, fork.raw.handle, 0)
        driver.cuMemsetD8Async(buffer.address, 1, 4, second.stream.handle)
        if join:
            driver.cuEventRecord(fork.raw.handle, second.stream.handle)
            driver.cuStreamWaitEvent(first.stream.handle, fork.raw.handle, 0)

    buffer = first.allocate((1,), F32)
    with pytest.raises(DeviceError) as error:
        first.capture(lambda: work(join=False))
    assert error.value.driver_code == "CUDA_ERROR_STREAM_CAPTURE_UNJOINED"
    graph = first.capture(lambda: work(join=True))
    graph.launch()
    assert first.download(buffer).view(np.uint32) == 0x01010101


def test_branches_of_a_graph_on_the_same_memory_are_caught(
    two: tuple[CudaDevice, CudaDevice], cuda_double: CudaDouble
) -> None:
    first, second = two
    fork, buffer = first.event(), first.allocate((1,), F32)

    def work() -> None:
        driver.cuEventRecord(fork.raw.handle, first.stream.handle)
        driver.cuStreamWaitEvent(second.stream.handle, fork.raw.handle, 0)
        for device in two:
            driver.cuMemsetD8Async(buffer.address, 1, 4, device.stream.handle)
        driver.cuEventRecord(fork.raw.handle, second.stream.handle)
        driver.cuStreamWaitEvent(first.stream.handle, fork.raw.handle, 0)

    with pytest.raises(DeviceError, match="capturing a graph"):
        first.capture(work)
    assert cuda_double.broken_rules() == ["no order between two branches of a graph on the same memory"]


def test_an_event_from_outside_breaks_a_capture(device: CudaDevice) -> None:
    event = device.event()
    device.stream.record(event)
    answers: list[int] = []
    with pytest.raises(DeviceError):
        device.capture(
            lambda: answers.append(code(driver.cuStreamWaitEvent(device.stream.handle, event.raw.handle, 0)))
        )
    assert answers == [905]


def test_destroyed_objects_are_found_out(device: CudaDevice) -> None:
    _, stream = driver.cuStreamCreate(1)
    _, event = driver.cuEventCreate(0)
    assert [code(driver.cuStreamDestroy(stream)), code(driver.cuEventDestroy(event))] == [0, 0]
    assert code(driver.cuStreamSynchronize(stream)) == 400
    assert code(driver.cuEventQuery(event)) == 400
    assert code(driver.cuEventRecord(event, device.stream.handle)) == 400


def test_a_thread_without_a_context_is_refused(device: CudaDevice) -> None:
    answers: list[int] = []
    thread = threading.Thread(target=lambda: answers.append(code(driver.cuMemAlloc(16))))
    thread.start()
    thread.join()
    assert answers == [201]


# ---- faults ----

# What a request does to the device, with the driver functions that can fail on the way and how often each is called.
FAILING = {
    "cuStreamCreateWithPriority": 1,
    "cuMemPoolCreate": 1,
    "cuMemAllocHost": 2,
    "cuEventCreate": 4,
    "cuMemAllocFromPoolAsync": 2,
    "cuMemsetD8Async": 2,
    "cuMemcpyAsync": 3,
    "cuStreamBeginCapture": 1,
    "cuStreamEndCapture": 1,
    "cuGraphInstantiate": 1,
    "cuGraphUpload": 1,
    "cuGraphLaunch": 3,
    "cuEventRecord": 2,
    "cuStreamSynchronize": 1,
    "cuLaunchHostFunc": 2,
}
FAULTS = [(name, nth) for name, calls in FAILING.items() for nth in range(1, calls + 1)]


def request() -> np.ndarray:
    """A small request on a device of its own: what the pipeline does with one, step by step."""
    with CudaDevice(staging_bytes=4096) as device:
        source, destination = device.allocate((100,), F32), device.allocate((100,), F32)
        start, end = device.event(), device.event()
        device.upload(np.arange(100, dtype=np.float32), source)

        def work() -> None:
            device.copy(source, destination)
            device.stream.submit(lambda: None)

        graph = device.capture(work)
        device.stream.submit(lambda: None)
        device.stream.record(start)
        for _ in range(3):
            graph.launch()
        device.stream.record(end)
        return device.download(destination)


def test_the_faults_below_are_all_there_are(cuda_double: CudaDouble) -> None:
    np.testing.assert_array_equal(request(), np.arange(100))
    closing = {"cuMemFreeHost", "cuMemFreeAsync", "cuStreamSynchronize"}  # waits and frees at the end
    for name, calls in FAILING.items():
        counted = cuda_double.count(name)
        assert counted >= calls if name in closing else counted == calls, name
    asking = ("Get", "Destroy", "Is", "cuInit", "UserObject", "PrimaryCtx", "SetCurrent", "cuMemPoolSetAccess")
    others = {entry.name for entry in cuda_double.calls()} - FAILING.keys() - closing
    assert [name for name in others if not any(part in name for part in asking)] == []
    assert cuda_double.broken_rules() == []


@pytest.mark.parametrize(("name", "nth"), FAULTS)
def test_each_failure_is_one_clear_error_and_leaves_nothing(cuda_double: CudaDouble, name: str, nth: int) -> None:
    before = cuda_double.live()
    cuda_double.fail(name, nth, OUT_OF_MEMORY)
    with pytest.raises(DeviceError, match="failed") as error:
        request()
    reason = None if name == "cuEventCreate" else "CUDA_ERROR_OUT_OF_MEMORY"  # cuda.core does not pass that one on
    assert error.value.driver_code == reason
    assert error.value.hint is not None
    assert "free GPU memory" in error.value.hint
    assert error.value.__context__ is error.value.__cause__  # one error, not one while closing after another
    del error
    gc.collect()
    assert cuda_double.live() == before
    assert cuda_double.broken_rules() == []
    np.testing.assert_array_equal(request(), np.arange(100))


def test_a_failed_context_closes_without_leaks(cuda_double: CudaDouble) -> None:
    before = cuda_double.live()
    with CudaDevice() as device:
        cuda_double.fail("cuStreamSynchronize", 1, ILLEGAL_ADDRESS)
        with pytest.raises(DeviceError, match="restart the process"):
            device.download(device.allocate((3,), F32))
    gc.collect()
    assert cuda_double.live() == before


def test_cuda_cores_own_page_locked_memory_is_not_freed_after_a_failure(cuda_double: CudaDouble) -> None:
    """When this fails, cuda.core frees it as we do, and ours can go (instantrt/device/pinned.py)."""
    with CudaDevice():
        before = cuda_double.live()["pinned_blocks"]
        memory = core.LegacyPinnedMemoryResource().allocate(64)
        address = int(memory.handle)
        cuda_double.fail("cuStreamSynchronize", 1, ILLEGAL_ADDRESS)
        memory.close()
        assert cuda_double.live()["pinned_blocks"] == before + 1
        driver.cuMemFreeHost(address)


def test_closing_a_device_frees_what_is_still_referenced(cuda_double: CudaDouble) -> None:
    before = cuda_double.live()
    device = CudaDevice()
    buffer, event = device.allocate((2,), F32), device.event()
    graph = device.capture(lambda: device.copy(buffer.at(0), buffer.at(1)))
    graph.launch()
    device.stream.record(event)
    device.close()
    assert cuda_double.live() == before
    assert event.is_recorded  # all of them are referenced up to here
    with pytest.raises(ValueError, match="closed"):
        _ = buffer.address
    with pytest.raises(RuntimeError):
        graph.launch()


def test_many_devices_in_a_row_leave_nothing(cuda_double: CudaDouble) -> None:
    before = cuda_double.live()
    cuda_double.keep_log(False)
    for _ in range(50):
        request()
    gc.collect()
    assert cuda_double.live() == before


def test_a_device_that_is_not_closed_is_freed_with_its_last_reference(cuda_double: CudaDouble) -> None:
    before = cuda_double.live()
    device = CudaDevice()
    buffer = device.allocate((3,), F32)
    device.upload(np.ones(3, np.float32), buffer)
    device.synchronize()
    with pytest.warns(ResourceWarning, match="not closed"):
        del device, buffer
    driver.cuCtxSynchronize()
    assert cuda_double.live() == before
