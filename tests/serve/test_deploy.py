"""The systemd unit: it runs as a user, with nothing it does not need, and its command is one that exists."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from instantrt_serve.command import SERVE
from instantrt_serve.config import ServeConfig

UNIT = Path(__file__).parents[2] / "deploy" / "instantrt.service"


def service() -> dict[str, str]:
    parser = ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return dict(parser["Service"])


def test_the_command_is_one_of_ours() -> None:
    parser = argparse.ArgumentParser()
    SERVE.declare(parser)
    for name in ("ExecStart", "ExecStartPre"):
        program, command, *arguments = service()[name].split()
        assert (Path(program).name, command) == ("instantrt", "serve")
        parsed = SERVE.parsed(parser.parse_args(arguments))
        assert parsed.check == (name == "ExecStartPre")
        assert parsed.no_keys is None


def test_it_runs_as_a_user_with_little_and_has_time_to_drain() -> None:
    found = service()
    assert found["User"] != "root"
    assert found["CapabilityBoundingSet"] == ""
    assert (found["NoNewPrivileges"], found["ProtectSystem"], found["ProtectHome"]) == ("yes", "strict", "yes")
    assert float(found["TimeoutStopSec"]) > ServeConfig().drain_s
    assert found["KillMode"] == "mixed"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_it() -> None:
    done = subprocess.run(["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True)
    assert "Unknown" not in done.stderr
