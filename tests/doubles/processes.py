"""Commands in processes of their own: as a user without a name or home, and with nothing but fresh folders."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

NOBODY = 12345  # a user that no password file lists, as in `docker run --user 12345`
KEEP_CAPABILITIES = (28, 4)  # prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP): until the next exec


def instantrt(*arguments: str | bytes) -> list[str | bytes]:
    """The command line of a process that runs `instantrt` with warnings as they are by default."""
    return [sys.executable, "-m", "instantrt.cli", *arguments]


def environment(**variables: str) -> dict[str, str]:
    """What a process needs to find this code, and nothing else of this one's environment."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", **variables}


def run_as_nobody(command: Sequence[str | bytes], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user without name, home and rights; skipped where that cannot be done."""
    if sys.platform != "linux" or os.getuid() != 0:
        pytest.skip("only root can become somebody else")
    libc = ctypes.CDLL(None)

    def become_nobody() -> None:
        libc.prctl(*KEEP_CAPABILITIES, 0, 0, 0)  # the interpreter may lie where only root can look
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)

    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment(**variables),
        preexec_fn=become_nobody,
        capture_output=True,
        text=True,
        check=False,
    )
    if "ModuleNotFoundError" in done.stderr:
        pytest.skip(f"this interpreter is not for other users: {done.stderr[-200:]}")
    return done
