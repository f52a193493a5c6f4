"""How many CPU threads help: not more than there are CPUs for them."""

from __future__ import annotations

import os

from instantrt.plain import Range

THREADS = Range(1, 2**31 - 1)


def usable_cpus() -> int:
    """Logical CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def useful_threads(asked: int) -> tuple[int, tuple[str, ...]]:
    """At most as many threads as there are usable CPUs, and a warning if that is fewer than ``asked``.

    More threads than CPUs make a request slower, and a thousand of them take gigabytes and minutes.
    """
    most = usable_cpus()
    if asked <= most:
        return asked, ()
    return most, (f"{most} threads instead of {asked}: this process may use {most} CPUs, and more threads do not help",)
