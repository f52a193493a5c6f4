"""docs/serving.md: clients written for the hosted API's page work here, run as they stand there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from serve.conftest import PHOTO
from serve.fake_worker import picture_of
from serve.live import Live, live_server

DOCUMENT = Path(__file__).parents[2] / "docs" / "serving.md"
ADDRESS = "http://127.0.0.1:8000"
COMMANDS = {
    "javascript": ["node", "--input-type=module", "-e"],
    "python": [sys.executable, "-c"],
    "sh": ["bash", "-euc"],
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_server(tmp_path_factory.mktemp("live")) as server:
        yield server


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("language", COMMANDS)
def test_a_client_of_the_page_works_with_another_address(language: str, live: Live, tmp_path: Path) -> None:
    if language != "python" and shutil.which("node" if language == "javascript" else "curl") is None:
        pytest.skip("needs node and curl")
    (snippet,) = [text for text in snippets(language) if "/v1/instantid" in text]
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    assert ADDRESS in snippet
    text = snippet.replace(ADDRESS, live.url).replace("YOUR_KEY", live.key)
    done = subprocess.run([*COMMANDS[language], text], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    picture = (tmp_path / "picture.jpg").read_bytes()
    assert picture == picture_of(live.worker.seen[-1], 0)
    assert Image.open(BytesIO(picture)).size == (64, 64)
    assert live.worker.seen[-1].face == PHOTO


def test_a_job_is_submitted_and_fetched_with_curl(live: Live, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    (snippet,) = [text for text in snippets("sh") if "/v2/instantid" in text]
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    text = snippet.replace(ADDRESS, live.url).replace("YOUR_KEY", live.key)
    done = subprocess.run(["bash", "-euc", text], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "event: done" in done.stdout
    assert (tmp_path / "picture.jpg").read_bytes() == picture_of(live.worker.seen[-1], 0)
