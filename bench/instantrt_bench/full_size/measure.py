"""A child process with its wall time and its peak memory."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

KIB = 1024
LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Measured:
    """One finished child.

    Args:
        seconds: wall time.
        peak_bytes: largest resident set, pages of mapped files included.
        output: its standard output.
    """

    seconds: float
    peak_bytes: int
    output: str


def run_measured(module: str, arguments: Sequence[str]) -> Measured:
    """Runs ``python -m module arguments`` and waits for it. Its standard error is this process's.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [sys.executable, "-m", module, *arguments]
    start, peak_bytes = perf_counter(), 0
    with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        with subprocess.Popen(command, stdout=output) as child:  # noqa: S603 - our own interpreter and module
            while child.poll() is None:
                peak_bytes = max(peak_bytes, peak_of(child.pid))
                sleep(LOOK_SECONDS)
        seconds = perf_counter() - start
        output.seek(0)
        said = output.read()
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, command, said)
    return Measured(seconds, peak_bytes, said)


def peak_of(process: int) -> int:
    """The largest resident set that a process has had since it was started, in bytes; 0 if it has ended.

    The kernel keeps this mark, so looking now and then misses only what is allocated between the last look and the
    end. Resource usage would not do: it counts what the parent held when it started the child.
    """
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    mark = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(mark[1]) * KIB if mark else 0
