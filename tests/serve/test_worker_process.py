"""The real worker process below the real supervisor, on the nano bundle."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from doubles.photos import encoded
from doubles.processes import environment
from instantrt import GenerateRequest, InstantID
from instantrt_serve.messages import Done, Event, Submit
from instantrt_serve.supervisor import Supervisor, worker_command
from instantrt_serve.worker_client import WorkerLostError, WorkerState

FIELDS = {"prompt": "portrait photo of a person", "steps": 4, "seed": 5, "width": 64, "height": 64}
ONE_THREAD = ("--threads", "1", "--slots", "1", "--lanes", "1")


def test_a_worker_that_is_killed_in_a_job_comes_back_and_makes_the_same_picture(
    nano_bundle: Path, astronaut: npt.NDArray[np.uint8]
) -> None:
    work = Submit("job", "account", {**FIELDS}, encoded(astronaut, "PNG"), format="png")

    async def events(supervisor: Supervisor) -> list[Event]:
        async with asyncio.timeout(120):
            while supervisor.state is not WorkerState.READY:
                await asyncio.sleep(0.01)
        told = []
        async for event in supervisor.submit(work):
            told.append(event)
            if supervisor.restarts == 0 and supervisor.pid is not None:
                os.kill(supervisor.pid, signal.SIGKILL)
        return told

    async def test() -> list[Event]:
        supervisor = Supervisor(worker_command(str(nano_bundle), *ONE_THREAD))
        await supervisor.start()
        with pytest.raises(WorkerLostError):
            await events(supervisor)
        await asyncio.sleep(0.5)
        told = await events(supervisor)
        assert supervisor.restarts == 1
        await supervisor.stop(30)
        return told

    last = asyncio.run(test())[-1]
    assert isinstance(last, Done)
    with InstantID.load(nano_bundle, threads=1) as pipeline:
        alone = pipeline.run(GenerateRequest(face=astronaut, **FIELDS))  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.asarray(Image.open(BytesIO(last.pictures[0]))), alone.pixels[0])


def test_a_bundle_that_is_not_one_ends_the_worker_with_a_line_in_its_log(tmp_path: Path) -> None:
    command = worker_command(str(tmp_path))
    done = subprocess.run(
        command, stdin=subprocess.PIPE, capture_output=True, env=environment(), text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert '"code": "bundle"' in done.stderr
    assert "Traceback" not in done.stderr


def test_what_libraries_print_does_not_get_between_the_frames() -> None:
    script = (
        "from instantrt_serve.worker.__main__ import take_stdout; import os\n"
        "sink = take_stdout(); print('noise', flush=True); os.system('echo more noise'); sink.write(b'frame')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment(), check=True)
    assert done.stdout == b"frame"
    assert done.stderr == b"noise\nmore noise\n"


def test_a_worker_needs_no_torch() -> None:
    script = "import instantrt_serve.worker.loop, instantrt_serve.supervisor, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], env=environment(), check=True)
