"""The stand-in for NVIDIA's driver from Python: build it, run tests below it, watch and disturb it.

It replaces ``libcuda.so.1`` for a whole process, from outside, through the library path: the code under test knows
nothing of it, and processes that build plans never see it. :func:`run_on_the_double` starts pytest in such a process.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

PLANNED_BUNDLE = "INSTANTRT_TEST_BUNDLE"  # tells a process on the stand-in where plans are that were built without it
ROOT = Path(__file__).parents[2]
LIVE = ("device_blocks", "device_bytes", "pinned_blocks", "pinned_bytes", "streams", "events", "graphs", "graph_execs")
LIVE += ("pools", "user_objects", "captures")


def build(folder: Path) -> Path:
    """Build the stand-in with CMake, or bring it up to date; returns the folder that holds ``libcuda.so.1``."""
    for command in (["cmake", "-S", ROOT, "-B", folder], ["cmake", "--build", folder, "--parallel", "2"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"building the stand-in driver failed:\n{done.stdout}{done.stderr}")
    return folder / "cuda-double"


@dataclass(frozen=True)
class Played:
    """Which GPU and driver a process below the stand-in sees; ``cuda_driver`` as the driver counts: 12020 is 12.2."""

    name: str = "stand-in driver (no GPU)"
    compute_capability: str = "8.9"
    multiprocessors: int = 1
    cuda_driver: int = 13000

    @property
    def variables(self) -> dict[str, str]:
        """What tells the stand-in."""
        return {
            "CUDA_DOUBLE_NAME": self.name,
            "CUDA_DOUBLE_CAPABILITY": self.compute_capability,
            "CUDA_DOUBLE_MULTIPROCESSORS": str(self.multiprocessors),
            "CUDA_DOUBLE_DRIVER": str(self.cuda_driver),
        }


USUAL = Played()
H100 = Played("NVIDIA H100 80GB HBM3", "9.0", 132)


def environment(library: Path, bundle: Path | None = None, played: Played = USUAL) -> dict[str, str]:
    """This process's environment with the stand-in in front, and a bundle that has plans."""
    path = os.pathsep.join(filter(None, [str(library), os.environ.get("LD_LIBRARY_PATH")]))
    planned = {PLANNED_BUNDLE: str(bundle)} if bundle else {}
    return os.environ | {"LD_LIBRARY_PATH": path} | planned | played.variables


@dataclass(frozen=True)
class Outcome:
    """What pytest said of the tests of one run below the stand-in."""

    returncode: int
    tests: int
    skipped: int
    output: str


def run_on_the_double(
    files: Sequence[Path],
    library: Path,
    scratch: Path,
    bundle: Path | None = None,
    options: Sequence[str] = (),
    played: Played = USUAL,
) -> Outcome:
    """Run the tests of ``files`` in a process that loads the stand-in as its driver; ``bundle`` has plans for them."""
    report = scratch / "report.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-q",
        f"--junit-xml={report}",
        *options,
        *map(str, files),
    ]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(library, bundle, played), capture_output=True, text=True, check=False
    )
    suite = ElementTree.parse(report).getroot().find("testsuite") if report.exists() else None
    counts = suite.attrib if suite is not None else {}
    return Outcome(
        done.returncode, int(counts.get("tests", 0)), int(counts.get("skipped", 0)), done.stdout + done.stderr
    )


@dataclass(frozen=True)
class Entry:
    """One line of the log.

    Args:
        type: ``call`` (of a driver function), ``run`` (of an operation on a stream) or ``rule`` (broken).
        name: of the function, the operation or the rule.
        members: the rest, e.g. ``result``, ``stream``, ``bytes``, ``direction``, ``capturing``, ``graph``.
    """

    type: str
    name: str
    members: dict[str, Any]


class CudaDouble:
    """The stand-in that this process has loaded as its driver."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.double_log_size.restype = ctypes.c_size_t
        library.double_log_copy.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t]
        library.double_count.restype = library.double_live.restype = library.double_peak.restype = ctypes.c_uint64
        library.double_fail.argtypes = [ctypes.c_char_p, ctypes.c_uint64, ctypes.c_int]
        library.double_set_memory_limit.argtypes = [ctypes.c_size_t]
        library.double_host_view.restype = ctypes.c_void_p
        library.double_host_view.argtypes = [ctypes.c_uint64, ctypes.c_size_t]
        library.double_will_access.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_int]

    @classmethod
    def loaded(cls) -> CudaDouble | None:
        """The stand-in, if that is what ``libcuda.so.1`` is here."""
        try:
            library = ctypes.CDLL("libcuda.so.1")
        except OSError:
            return None
        return cls(library) if hasattr(library, "double_count") else None

    def reset(self) -> None:
        """Run what waits, then forget failures, requests, limits and the log. Live objects stay."""
        self._library.double_reset()

    def log(self) -> list[Entry]:
        """Everything logged since the last :meth:`clear_log`, oldest first."""
        size = self._library.double_log_size()
        text = ctypes.create_string_buffer(size + 1)
        self._library.double_log_copy(text, 0, size)
        entries = (json.loads(line) for line in text.raw[:size].splitlines())
        return [Entry(entry.pop("type"), entry.pop("name"), entry) for entry in entries]

    def calls(self, name: str | None = None) -> list[Entry]:
        """The driver functions called, or the calls of one of them."""
        return [entry for entry in self.log() if entry.type == "call" and name in (None, entry.name)]

    def runs(self) -> list[Entry]:
        """The operations that ran on streams; those of a graph have the member ``graph``."""
        return [entry for entry in self.log() if entry.type == "run"]

    def broken_rules(self) -> list[str]:
        """The rules that were broken, by name."""
        return [entry.name for entry in self.log() if entry.type == "rule"]

    def clear_log(self) -> None:
        """Empty the log and set the counts to 0."""
        self._library.double_log_clear()

    def keep_log(self, kept: bool) -> None:
        """Keep the log or, for long runs, only the counts."""
        self._library.double_log_keep(int(kept))

    def count(self, name: str) -> int:
        """How often a function was called since the last :meth:`clear_log`; ``run:NAME`` counts operations."""
        return int(self._library.double_count(name.encode()))

    def fail(self, name: str, nth: int = 1, error: int = 2) -> None:
        """Make the ``nth`` call of ``name`` from now on return ``error`` (2: out of memory) and do nothing else."""
        self._library.double_fail(name.encode(), nth, error)

    def limit_memory(self, nbytes: int) -> None:
        """Give the GPU so much memory."""
        self._library.double_set_memory_limit(nbytes)

    def live(self) -> dict[str, int]:
        """Live objects by kind. Memory whose free still waits on a stream is live."""
        return {kind: int(self._library.double_live(kind.encode())) for kind in LIVE}

    def peak_bytes(self) -> int:
        """The most device memory that was live at one time since the last call."""
        return int(self._library.double_peak())

    def view(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """GPU memory as a host array, for host functions that stand for kernels; not during other work."""
        nbytes = int(np.prod(shape)) * dtype.itemsize
        start = self._library.double_host_view(address, nbytes)
        if start is None:
            raise ValueError(f"{nbytes} bytes at {address:#x} are not inside one live allocation")
        return np.frombuffer((ctypes.c_uint8 * nbytes).from_address(start), dtype).reshape(shape)

    def will_access(self, stream: int, address: int, nbytes: int, *, writes: bool) -> None:
        """Declare what the next host function on ``stream`` (a handle) reads or writes, so that it is checked."""
        if code := self._library.double_will_access(stream, address, nbytes, int(writes)):
            raise ValueError(f"no stream {stream:#x} (error {code})")
