"""A worker without networks that does what a job's prompt says. Run by path: it speaks the worker's protocol."""

from __future__ import annotations

import os
import signal
import sys
import time
from io import FileIO

from instantrt_serve.frames import decode_to_worker, frame, read_frame
from instantrt_serve.messages import Beat, Cancel, Done, Failed, FromWorker, Progress, Ready, Stop, Submit

SIZES = {"default": (64, 64), "min": (64, 64), "max": (64, 64)}


def send(message: FromWorker) -> None:
    sys.stdout.buffer.write(frame(message))
    sys.stdout.buffer.flush()


def answer(work: Submit) -> None:
    match work.fields["prompt"]:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            time.sleep(3600)
        case "nonsense":
            sys.stdout.buffer.write(b"what is this")
            sys.stdout.buffer.flush()
        case "wait":
            send(Progress(work.job, 1, 4))
        case _:
            send(Progress(work.job, 4, 4))
            send(Done(work.job, [work.face], 1, 64, 64, [], 0.0, {}))


def main() -> None:
    if "never-ready" in sys.argv:
        time.sleep(3600)
    send(Ready("scripted", "none", SIZES, 1, {"64x64/2": 10.0}, 5.0))
    source, received = FileIO(0), 0
    while (body := read_frame(source)) is not None:
        match decode_to_worker(body):
            case Submit() as work:
                received += 1
                answer(work)
                send(Beat(0, int(work.fields["prompt"] == "wait"), 40.0, received))
            case Cancel() as cancel:
                send(Failed(cancel.job, "cancelled", f"{cancel.job} was cancelled"))
            case Stop():
                if "stubborn" in sys.argv:
                    time.sleep(3600)
                return


main()
