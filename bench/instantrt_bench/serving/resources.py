"""What the processes of a server hold: memory, open files, threads."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import psutil

from instantrt_bench.serving.server import Server


@dataclass(frozen=True)
class Resources:
    """Of all processes of a server together."""

    memory_bytes: int  # resident
    files: int
    threads: int

    @classmethod
    def of(cls, server: Server) -> Resources:
        """As they are now."""
        found = [_of(process) for process in server.processes()]
        return cls(sum(m for m, _, _ in found), sum(f for _, f, _ in found), sum(t for _, _, t in found))

    def to_json(self) -> dict[str, int]:
        """Plain data."""
        return asdict(self)


def _of(process: psutil.Process) -> tuple[int, int, int]:
    try:
        with process.oneshot():
            return process.memory_info().rss, process.num_fds(), process.num_threads()
    except psutil.NoSuchProcess:
        return 0, 0, 0
