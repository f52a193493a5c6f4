"""What a measurement ran on: a number without it says little."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from instantrt.threads import usable_cpus, useful_threads
from instantrt.version import version_of

MAX_FOREIGN_CPUS = 0.15  # above it, times on the CPU are not judged
PACKAGES = (
    "instantrt",
    "numpy",
    "onnxruntime",
    "openvino",
    "torch",
    "diffusers",
    "transformers",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "cuda-core",
    "opencv-python-headless",
)


@dataclass(frozen=True)
class CpuTimes:
    """CPU seconds spent so far, machine-wide and by this process. Linux only: :meth:`now` gives None elsewhere."""

    wall_s: float
    machine_s: float
    own_s: float

    @classmethod
    def now(cls) -> CpuTimes | None:
        """Read the counters."""
        stat = Path("/proc/stat")
        if not stat.is_file():
            return None
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.read_text().split()[1:9])
        ticks = user + nice + system + irq + softirq + steal
        return cls(time.perf_counter(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time())

    def foreign_cpus_since(self, workers_s: float = 0.0) -> float | None:
        """How many CPUs others have kept busy since these were read, on average.

        ``workers_s`` is the CPU time that this process's own workers took meanwhile.
        """
        now = CpuTimes.now()
        if now is None:
            return None
        foreign_s = (now.machine_s - self.machine_s) - (now.own_s - self.own_s) - workers_s
        return max(0.0, foreign_s / (now.wall_s - self.wall_s))


def system_threads(asked: int | None) -> int:
    """The CPU threads of each system: as many as were asked for, all usable CPUs by default, and never more than those.

    Writes a warning to stderr if it is fewer than asked.
    """
    threads, warnings = useful_threads(usable_cpus() if asked is None else asked)
    sys.stderr.writelines(f"warning: {warning}\n" for warning in warnings)
    return threads


def machine_facts() -> dict[str, object]:
    """Which machine, its CPU and usable logical cores, operating system and package versions, as plain data."""
    return {
        "host": _host(),
        "cpu": _cpu_model(),
        "logical_cpus": usable_cpus(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in PACKAGES},
    }


def _host() -> str:
    """A digest that tells machines apart without naming them."""
    path = Path("/etc/machine-id")
    installed = path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    return hashlib.sha256(f"{installed} {platform.node()}".encode()).hexdigest()[:12]


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def installed_version(package: str) -> str | None:
    """Of a distribution; None if it is not installed."""
    try:
        return version_of(package)
    except PackageNotFoundError:
        return None
