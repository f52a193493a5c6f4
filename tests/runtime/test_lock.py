"""Locks between processes: one at a time, also after a kill."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from instantrt.lock import locked, locked_if_free

HOLD = """
import sys
from pathlib import Path
from instantrt.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until its standard input is closed, or it is killed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_a_second_process_waits_for_the_lock_and_says_so(holder, tmp_path: Path) -> None:
    waited = []

    def on_wait() -> None:
        waited.append(True)
        holder.stdin.close()

    with locked(tmp_path / "lock", on_wait):
        assert waited == [True]
    assert holder.wait(30) == 0


def test_a_killed_process_holds_no_lock(holder, tmp_path: Path) -> None:
    with locked_if_free(tmp_path / "lock") as free:
        assert not free
    holder.kill()
    holder.wait(30)
    with locked_if_free(tmp_path / "lock") as free:
        assert free


def test_a_file_system_without_locks_is_warned_of(tmp_path: Path, monkeypatch, caplog) -> None:
    def refuse(file, operation) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING), locked(tmp_path / "lock"):
        assert "do not write there from two processes at once" in caplog.text
    with locked_if_free(tmp_path / "lock") as free:
        assert not free, "what another process may hold is not free"
