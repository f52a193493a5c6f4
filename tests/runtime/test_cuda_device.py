"""The CUDA device keeps to the protocol. Runs on a GPU, and on the stand-in driver (test_on_the_cuda_double.py)."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from time import sleep
from typing import Any

import numpy as np
import pytest

from randomness import fresh_rng

pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings")
pytest.importorskip("cuda.core", reason="needs cuda-core")

from doubles.cuda_double import CudaDouble
from instantrt.cli import main
from instantrt.device.cuda import CudaDevice
from instantrt.device.host import HostDevice
from instantrt.device.properties import cuda_version, gpu_uuid, visible_gpus
from instantrt.errors import DeviceError

pytestmark = pytest.mark.gpu

F32 = np.dtype(np.float32)


HELD_S = 0.2  # how long held-back work takes; the stand-in runs work inside the call that asks for it


def hold() -> None:
    """Takes a while; a host function for the stream."""
    sleep(HELD_S)


def random(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return fresh_rng().integers(-99, 99, shape).astype(dtype)


@pytest.mark.parametrize("kept_bytes", [0, 1 << 20])
def test_freed_memory_goes_back_to_the_gpu_unless_it_is_to_be_kept(cuda_device: CudaDevice, kept_bytes: int) -> None:
    with CudaDevice(kept_bytes=kept_bytes) as device:
        assert device._pool.attributes.release_threshold == kept_bytes


def test_buffers_start_at_zero_and_parts_share_their_memory(cuda_device: CudaDevice) -> None:
    buffer = cuda_device.allocate((2, 3, 4), F32)
    assert not cuda_device.download(buffer).any()
    part, values = buffer.at(1).rows(2), random(2, 4)
    cuda_device.upload(values, part)
    expected = np.zeros((2, 3, 4))
    expected[1, :2] = values
    np.testing.assert_array_equal(cuda_device.download(buffer), expected)
    np.testing.assert_array_equal(cuda_device.download(buffer.at(1, 0)), values[0])
    assert buffer.at(1).address == buffer.address + 3 * 4 * 4


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32, np.uint8])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 1, 3, 1)])
def test_what_goes_up_comes_down(cuda_device: CudaDevice, shape: tuple[int, ...], dtype: Any) -> None:
    values = random(*shape, dtype=dtype)
    buffer = cuda_device.allocate(shape, np.dtype(dtype))
    cuda_device.upload(values, buffer)
    back = cuda_device.download(buffer)
    assert (back.dtype, back.shape) == (values.dtype, values.shape)
    np.testing.assert_array_equal(back, values)


def test_large_uploads_go_through_small_staging_in_pieces(cuda_device: CudaDevice) -> None:
    with CudaDevice(staging_bytes=4096) as device:
        arrays = [random(n) for n in (100, 5000, 512, 1, 3001)]
        buffers = [device.allocate(array.shape, F32) for array in arrays]
        for array, buffer in zip(arrays, buffers, strict=True):
            device.upload(array, buffer)
        for array, back in zip(arrays, device.download_all(buffers), strict=True):
            np.testing.assert_array_equal(back, array)


def test_the_source_of_an_upload_may_be_reused_at_once(cuda_device: CudaDevice) -> None:
    source, buffer = random(1000), cuda_device.allocate((1000,), F32)
    expected = source.copy()
    cuda_device.upload(source, buffer)
    source[:] = 0
    np.testing.assert_array_equal(cuda_device.download(buffer), expected)


def test_uploads_that_follow_each_other_do_not_overwrite_each_others_staging() -> None:
    try:
        device = CudaDevice(staging_bytes=2048)
    except DeviceError as error:
        pytest.skip(str(error))
    with device:
        buffers = [device.allocate((200,), F32) for _ in range(20)]
        arrays = [random(200) for _ in buffers]
        for array, buffer in zip(arrays, buffers, strict=True):
            device.upload(array, buffer)
        np.testing.assert_array_equal(device.download_all(buffers), arrays)


def test_a_download_is_a_copy(cuda_device: CudaDevice) -> None:
    buffer = cuda_device.allocate((2,), F32)
    first = cuda_device.download(buffer)
    cuda_device.upload(np.ones(2, np.float32), buffer)
    second = cuda_device.download(buffer)
    np.testing.assert_array_equal([first, second], [[0, 0], [1, 1]])


def test_a_captured_copy_runs_at_each_launch_and_not_before(cuda_device: CudaDevice) -> None:
    source, destination = cuda_device.allocate((3,), F32), cuda_device.allocate((3,), F32)
    graph = cuda_device.capture(lambda: cuda_device.copy(source, destination))
    assert not cuda_device.download(destination).any()
    for _ in range(3):
        values = random(3)
        cuda_device.upload(values, source)
        graph.launch()
        np.testing.assert_array_equal(cuda_device.download(destination), values)


def test_launches_do_not_wait_and_run_in_order(cuda_device: CudaDevice) -> None:
    ran: list[int] = []
    step = cuda_device.capture(lambda: cuda_device.stream.submit(lambda: ran.append(len(ran))))
    end = cuda_device.event()
    cuda_device.stream.submit(hold)
    for _ in range(5):
        step.launch()
    cuda_device.stream.record(end)
    assert not end.is_done
    assert ran == []
    cuda_device.synchronize()
    assert end.is_done
    assert ran == [0, 1, 2, 3, 4]


def test_an_event_polled_is_done_in_the_end_and_times_the_work(cuda_device: CudaDevice) -> None:
    start, end, never = cuda_device.event(), cuda_device.event(), cuda_device.event()
    cuda_device.stream.record(start)
    cuda_device.stream.submit(hold)
    cuda_device.stream.record(end)
    while not end.is_done:
        pass
    assert 1000 * HELD_S <= end.ms_since(start) + 1 < 5000
    assert not never.is_done
    with pytest.raises(ValueError, match="done"):
        never.ms_since(start)


def test_an_event_can_be_recorded_again(cuda_device: CudaDevice) -> None:
    event = cuda_device.event()
    cuda_device.stream.record(event)
    cuda_device.synchronize()
    assert event.is_done
    cuda_device.stream.submit(hold)
    cuda_device.stream.record(event)
    assert not event.is_done
    cuda_device.synchronize()
    assert event.is_done


def test_a_device_can_be_used_from_another_thread(cuda_device: CudaDevice) -> None:
    values, seen = random(9), []

    def work() -> None:
        buffer = cuda_device.allocate((9,), F32)
        cuda_device.upload(values, buffer)
        seen.append(cuda_device.download(buffer))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(seen, [values])


def test_a_loop_can_go_on_in_another_thread(cuda_device: CudaDevice) -> None:
    source, destination = cuda_device.allocate((9,), F32), cuda_device.allocate((9,), F32)
    values, event, seen = random(9), cuda_device.event(), []
    cuda_device.upload(values, source)
    graph = cuda_device.capture(lambda: cuda_device.copy(source, destination))

    def work() -> None:
        graph.launch()
        cuda_device.stream.submit(lambda: None)
        cuda_device.stream.record(event)
        while not event.is_done:
            pass
        seen.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen
    np.testing.assert_array_equal(cuda_device.download(destination), values)


@pytest.mark.parametrize("forbidden", ["allocate", "upload", "download", "capture", "record"])
def test_what_a_graph_cannot_hold_is_refused_in_a_capture(cuda_device: CudaDevice, forbidden: str) -> None:
    buffer, event = cuda_device.allocate((1,), F32), cuda_device.event()
    calls = {
        "allocate": lambda: cuda_device.allocate((1,), F32),
        "upload": lambda: cuda_device.upload(random(1), buffer),
        "download": lambda: cuda_device.download(buffer),
        "capture": lambda: cuda_device.capture(lambda: None),
        "record": lambda: cuda_device.stream.record(event),
    }
    with pytest.raises(RuntimeError, match="capture is under way"):
        cuda_device.capture(calls[forbidden])
    values = random(1)
    cuda_device.upload(values, buffer)
    assert cuda_device.download(buffer) == values


def test_an_error_inside_a_capture_leaves_the_stream_usable(cuda_device: CudaDevice) -> None:
    with pytest.raises(ZeroDivisionError):
        cuda_device.capture(lambda: 1 // 0)
    test_a_captured_copy_runs_at_each_launch_and_not_before(cuda_device)


@pytest.mark.parametrize("array", [np.ones(3, np.float32), np.ones(2, np.float64), np.ones((2, 1), np.float32)])
def test_an_upload_of_another_shape_or_dtype_is_refused(cuda_device: CudaDevice, array: np.ndarray) -> None:
    with pytest.raises(ValueError, match="cannot upload"):
        cuda_device.upload(array, cuda_device.allocate((2,), F32))


def test_a_copy_between_sizes_or_devices_is_refused(cuda_device: CudaDevice) -> None:
    with pytest.raises(ValueError, match="cannot copy"):
        cuda_device.copy(cuda_device.allocate((2,), F32), cuda_device.allocate((3,), F32))
    with pytest.raises(TypeError, match="CUDA device"):
        cuda_device.copy(HostDevice().allocate((2,), F32), cuda_device.allocate((2,), F32))


@pytest.mark.parametrize("part", [lambda b: b.at(2), lambda b: b.at(0, 0, 0), lambda b: b.at(-1), lambda b: b.rows(3)])
def test_parts_outside_a_buffer_are_refused(cuda_device: CudaDevice, part: Any) -> None:
    with pytest.raises(IndexError):
        part(cuda_device.allocate((2, 3), F32))


def test_closing_a_part_frees_nothing_and_a_closed_buffer_has_no_address(cuda_device: CudaDevice) -> None:
    buffer = cuda_device.allocate((2, 2), F32)
    buffer.at(0).close()
    cuda_device.upload(random(2, 2), buffer)
    buffer.close()
    buffer.close()
    with pytest.raises(ValueError, match="closed"):
        _ = buffer.address
    with pytest.raises(ValueError, match="closed"):
        cuda_device.download(buffer)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_everything_closes_in_any_order_and_twice(cuda_device: CudaDevice, order: tuple[int, ...]) -> None:
    device = CudaDevice()
    buffer, event = device.allocate((4,), F32), device.event()
    graph = device.capture(lambda: device.copy(buffer.at(0), buffer.at(1)))
    graph.launch()
    device.stream.record(event)
    device.synchronize()
    closing = [device, buffer, event, graph]
    for index in order * 2:
        closing[index].close()


def test_two_devices_on_one_gpu_have_their_own_streams(cuda_device: CudaDevice) -> None:
    with CudaDevice() as other:
        assert other.stream.handle != cuda_device.stream.handle
        assert other.stream.handle > 0
        values = [random(3), random(3)]
        buffers = [cuda_device.allocate((3,), F32), other.allocate((3,), F32)]
        for device, buffer, value in zip((cuda_device, other), buffers, values, strict=True):
            device.upload(value, buffer)
        np.testing.assert_array_equal([cuda_device.download(buffers[0]), other.download(buffers[1])], values)


@pytest.mark.parametrize("ordinal", [-1, 99])
def test_a_gpu_that_is_not_there_is_said_so(cuda_device: CudaDevice, ordinal: int) -> None:
    with pytest.raises(DeviceError, match=f"no GPU {ordinal}") as error:
        CudaDevice(ordinal)
    assert "visible" in str(error.value.found)


def test_a_buffer_that_does_not_fit_is_said_so_with_the_room_there_is(cuda_device: CudaDevice) -> None:
    _, total = cuda_device.memory_bytes()
    with pytest.raises(DeviceError, match="allocating") as error:
        cuda_device.allocate((total * 2,), np.dtype(np.uint8))
    assert error.value.driver_code == "CUDA_ERROR_OUT_OF_MEMORY"
    assert "MiB free" in str(error.value.found)
    buffer = cuda_device.allocate((1,), F32)
    assert cuda_device.download(buffer) == 0


def test_the_gpu_is_described(cuda_device: CudaDevice) -> None:
    properties = cuda_device.properties
    assert properties.name
    assert tuple(map(int, properties.compute_capability.split("."))) >= (5, 0)
    assert properties.multiprocessors >= 1
    assert properties in visible_gpus()
    assert tuple(map(int, cuda_version().split("."))) >= (12, 0)
    free, total = cuda_device.memory_bytes()
    assert 0 < free <= total


def test_a_gpu_has_an_id_of_its_own(cuda_device: CudaDevice) -> None:
    groups = gpu_uuid(cuda_device.ordinal).split("-")
    assert [len(group) for group in groups] == [8, 4, 4, 4, 12]
    assert int("".join(groups), 16)
    if CudaDouble.loaded():
        assert bytes.fromhex("".join(groups)) == b"cuda-double-0000"
    with pytest.raises(DeviceError, match="no GPU 99"):
        gpu_uuid(99)


def test_doctor_lists_the_gpu(cuda_device: CudaDevice, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    machine = json.loads(capsys.readouterr().out)["machine"]
    assert asdict(cuda_device.properties) in machine["gpus"]
    assert (machine["cuda_driver"], machine["no_gpu"]) == (cuda_version(), None)
    assert main(["doctor"]) == 0
    assert cuda_device.properties.name in capsys.readouterr().out
