"""The host device keeps to the protocol that CUDA's keeps to."""

from __future__ import annotations

from threading import Thread

import numpy as np
import pytest

from instantrt.device.host import HostBuffer, HostDevice, HostEvent

F32 = np.dtype(np.float32)


def test_buffers_start_at_zero_and_parts_share_their_memory() -> None:
    device = HostDevice()
    buffer = device.allocate((2, 3, 4), F32)
    assert not device.download(buffer).any()
    device.upload(np.ones((2, 4), np.float32), buffer.at(1).rows(2))
    expected = np.zeros((2, 3, 4))
    expected[1, :2] = 1
    np.testing.assert_array_equal(device.download(buffer), expected)
    assert buffer.at(1).address == buffer.address + 3 * 4 * 4


def test_a_download_is_a_copy() -> None:
    device = HostDevice()
    buffer = device.allocate((2,), F32)
    before = device.download(buffer)
    device.upload(np.ones(2, np.float32), buffer)
    assert not before.any()


def test_a_captured_copy_runs_at_each_launch_and_not_before() -> None:
    device = HostDevice()
    source, destination = device.allocate((2,), F32), device.allocate((2,), F32)
    graph = device.capture(lambda: device.copy(source, destination))
    device.upload(np.full(2, 7, np.float32), source)
    assert not device.download(destination).any()
    for value in (7, 8):
        device.upload(np.full(2, value, np.float32), source)
        graph.launch()
        np.testing.assert_array_equal(device.download(destination), [value, value])


def test_a_capture_leaves_other_threads_alone() -> None:
    device, event = HostDevice(), HostEvent()

    def work() -> None:
        other = Thread(target=device.stream.record, args=(event,))
        other.start()
        other.join()
        assert event.is_done

    device.capture(work)


def test_capturing_inside_a_capture_is_refused_and_leaves_the_stream_usable() -> None:
    device = HostDevice()
    with pytest.raises(RuntimeError, match="already under way"):
        device.capture(lambda: device.capture(lambda: None))  # type: ignore[arg-type, func-returns-value]
    source, destination = device.allocate((1,), F32), device.allocate((1,), F32)
    device.upload(np.ones(1, np.float32), source)
    device.copy(source, destination)
    assert device.download(destination)[0] == 1


@pytest.mark.parametrize("array", [np.ones(3, np.float32), np.ones(2, np.float64)])
def test_an_upload_of_another_shape_or_dtype_is_refused(array: np.ndarray) -> None:
    device = HostDevice()
    with pytest.raises(ValueError, match="cannot upload"):
        device.upload(array, device.allocate((2,), F32))


def test_a_strided_array_is_no_buffer() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        HostBuffer(np.zeros((4, 4))[:, ::2])
