"""This process's peak memory in RAM. Linux can forget the peak so far; elsewhere it is that of the process's life."""

from __future__ import annotations

import sys
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CLEAR_PEAK = "5"


def forget_peak() -> bool:
    """Let the peak start anew from what is in use now; False where the system cannot."""
    try:
        _CLEAR.write_text(_CLEAR_PEAK)
    except OSError:
        return False
    return True


def peak_bytes() -> int | None:
    """The most memory in RAM since the process began or :func:`forget_peak`; None where the system does not tell."""
    # Not ru_maxrss on Linux: a process inherits it from the one that started it.
    if _STATUS.is_file():
        for line in _STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource  # POSIX only
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
