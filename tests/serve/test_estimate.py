"""How long jobs are expected to take, before and after their shape was measured; and frames on a stream."""

from __future__ import annotations

import os
from io import BytesIO, FileIO

import pytest

from instantrt.denoise import LoopShape
from instantrt.request import GenerateRequest
from instantrt_serve.estimate import Work, call_ms, job_ms
from instantrt_serve.frames import FrameError, decode_to_worker, frame, read_frame
from instantrt_serve.messages import Cancel, Stop
from instantrt_serve.worker.connection import Connection, Hangup
from instantrt_serve.worker.lanes import WHOLE_LOOPS, LaneLoops, Lanes

MEASURED = {"128x128/2": 40.0, "64x64/2": 12.0}


@pytest.mark.parametrize(
    ("width", "height", "guidance_batch", "expected"),
    [(128, 128, 2, 40.0), (64, 64, 2, 12.0), (256, 128, 2, 80.0), (64, 64, 1, 6.0), (128, 128, 1, 20.0)],
)
def test_a_call_costs_what_was_measured_or_as_much_per_pixel(
    width: int, height: int, guidance_batch: int, expected: float
) -> None:
    assert call_ms(MEASURED, width, height, guidance_batch) == expected


def test_nothing_measured_is_nothing_known() -> None:
    assert call_ms({}, 64, 64, 2) == 0.0


def test_a_job_costs_its_calls_and_what_is_fixed() -> None:
    work = Work.of_fields({"steps": 10, "sampler": "heun", "samples": 3, "guidance_scale": 1}, (128, 128))
    assert work == Work(128, 128, 1, 19, 3)
    assert job_ms(work, MEASURED, 2, 7.0) == 20.0 / 2 * 19 * 3 + 7.0


def test_fields_that_are_missing_or_nonsense_count_as_their_defaults() -> None:
    defaults = Work(128, 64, 2, GenerateRequest.steps, 1)
    assert Work.of_fields({}, (128, 64)) == defaults
    assert Work.of_fields({"steps": "many", "samples": None, "width": None}, (128, 64)) == defaults


class Pipe:
    """Both ends of a pipe, without buffers."""

    def __init__(self) -> None:
        self.source, self.sink = (FileIO(fd, mode) for fd, mode in zip(os.pipe(), "rw", strict=True))


def test_frames_come_out_of_a_pipe_as_they_went_in() -> None:
    pipe = Pipe()
    messages = [Cancel("a"), Stop(), Cancel("b" * 10_000)]
    pipe.sink.write(b"".join(map(frame, messages)) + b"\x05\x00\x00\x00cut")
    pipe.sink.close()
    bodies = [read_frame(pipe.source) for _ in messages]
    assert [decode_to_worker(body) for body in bodies if body is not None] == messages
    assert read_frame(pipe.source) is None
    pipe.source.close()


def test_a_stream_of_something_else_is_told_from_frames() -> None:
    pipe = Pipe()
    pipe.sink.write(b"HTTP/1.1 200 OK")
    with pytest.raises(FrameError):
        read_frame(pipe.source)
    pipe.sink.close()
    pipe.source.close()


def test_a_connection_hands_on_messages_then_that_the_other_side_is_gone() -> None:
    pipe, answers = Pipe(), BytesIO()
    connection = Connection(pipe.source, answers)
    pipe.sink.write(frame(Cancel("a")))
    pipe.sink.close()
    assert connection.receive(10) == Cancel("a")
    assert isinstance(connection.receive(10), Hangup)
    assert connection.receive(0) is None
    connection.close()
    pipe.source.close()


def test_where_there_are_tracks_few_loops_keep_networks_for_the_whole_device() -> None:
    """Or every lane would have both in the end, and a server's memory would grow for hours."""

    class Loop:
        shape = LoopShape(1, 2, 64, 64)
        is_loaded = False

        def load(self) -> None:
            self.is_loaded = True

        def unload(self) -> None:
            self.is_loaded = False

    made = [(Loop(), Loop()) for _ in range(3 * WHOLE_LOOPS)]
    lanes = Lanes(lambda _: LaneLoops(*made[len(lanes.lanes())]), len(made))  # type: ignore[arg-type]
    numbers = [lanes.open(Loop.shape, on_track=True) for _ in made]
    for number in (*numbers, *numbers[:2]):
        assert number is not None
        assert lanes.use(number).is_loaded
        assert sum(whole.is_loaded for whole, _ in made) <= WHOLE_LOOPS
    assert [n for n, (whole, _) in zip(numbers, made, strict=True) if whole.is_loaded] == [*numbers[:2], *numbers[-2:]]
    assert all(track.is_loaded for _, track in made)


def test_the_first_lane_that_does_not_fit_is_an_error_and_later_ones_lower_the_bound() -> None:
    class Loop:
        shape = LoopShape(1, 2, 64, 64)
        closed = 0

        def load(self) -> None:
            raise MemoryError

        def close(self) -> None:
            Loop.closed += 1

    lanes = Lanes(lambda _: LaneLoops(Loop()), 5)  # type: ignore[arg-type]
    with pytest.raises(MemoryError):
        lanes.open(Loop.shape)
    lanes.adopt(LaneLoops(Loop()))  # type: ignore[arg-type]
    assert lanes.open(Loop.shape) is None
    assert lanes.bound == 1
    assert Loop.closed == 2, "what did not fit leaves nothing behind"
