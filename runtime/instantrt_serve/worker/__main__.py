"""``python -m instantrt_serve.worker BUNDLE``: the worker process, which speaks frames over its stdin and stdout."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from contextlib import ExitStack
from dataclasses import replace
from io import FileIO
from pathlib import Path
from typing import BinaryIO

NICENESS = 5  # the API process comes first where both want a core: what it does is short, and somebody waits for it


def take_stdout() -> BinaryIO:
    """Standard output for frames alone: whatever a library prints goes to stderr from now on."""
    frames = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(frames, "wb")


def main(arguments: list[str] | None = None) -> int:
    """Load, measure, serve; the exit status."""
    sink = take_stdout()
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    from instantrt.engine import TargetOptions
    from instantrt.errors import InstantRTError
    from instantrt.threads import usable_cpus
    from instantrt.version import __version__
    from instantrt_serve.messages import Stop
    from instantrt_serve.worker.connection import Connection
    from instantrt_serve.worker.log import log, log_bug
    from instantrt_serve.worker.loop import Facts, serve
    from instantrt_serve.worker.maker import PictureMaker
    from instantrt_serve.worker.measure import measure
    from instantrt_serve.worker.tracks import check_tracks, find_tracks

    options = parser().parse_args(arguments)
    connection = Connection(FileIO(os.dup(0)), sink)
    signal.signal(signal.SIGTERM, lambda *_: connection.put(Stop()))
    try:
        names = ("threads", "device", "runtime_cache", "precision_hint", "openvino_device")
        target_options = TargetOptions(**{name: getattr(options, name) for name in names})
        check_tracks(options.target, options.tracks)

        def open_maker(threads: int | None) -> PictureMaker:
            return PictureMaker(options.bundle, options.target, replace(target_options, threads=threads))

        with ExitStack() as opened:
            maker = opened.enter_context(open_maker(target_options.threads))
            measured = measure(maker, options.slots, options.lanes)
            tracks = find_tracks(maker, measured, open_maker, target_options.threads or usable_cpus(), options.tracks)
            if tracks is not None:
                opened.enter_context(tracks.maker)
            facts = Facts(options.bundle.resolve().name, __version__)
            serve(maker, measured, connection, facts, tracks)
    except InstantRTError as error:
        log("failed", code=error.code, what=error.what, found=error.found, hint=error.hint)
        return 1
    except Exception as error:
        log_bug("crashed", error)
        return 2
    finally:
        connection.close()
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments that the API process gives."""
    from instantrt.cli.arguments import parse_positive
    from instantrt.engine import OPENVINO_DEVICES, PRECISION_HINTS

    parser = argparse.ArgumentParser(prog="python -m instantrt_serve.worker", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--threads", type=int, help="CPU threads of one network")
    parser.add_argument("--device", type=int, help="ordinal of the GPU")
    parser.add_argument("--runtime-cache", type=Path, help="folder for what is compiled on this machine")
    parser.add_argument("--precision-hint", choices=PRECISION_HINTS, help="what OpenVINO computes in")
    parser.add_argument("--openvino-device", choices=OPENVINO_DEVICES, help="what OpenVINO runs on")
    parser.add_argument("--slots", type=parse_positive, help="pictures side by side in a lane; measured by default")
    parser.add_argument(
        "--lanes", type=parse_positive, help="lanes that are kept on the device; as many as fit by default"
    )
    parser.add_argument(
        "--tracks", type=parse_positive, help="lanes that work at once, each on its part of the threads; 2 if that pays"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
