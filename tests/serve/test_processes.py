"""The server as a process: it drains on SIGTERM, survives kill -9, and refuses headers that are too large."""

from __future__ import annotations

import base64
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from instantrt_serve.accounts import keys
from instantrt_serve.accounts.database import Database
from serve.conftest import CREDITS, PHOTO

ROOT = Path(__file__).parents[2]
BODY = {"prompt": "a", "face_image": base64.b64encode(PHOTO).decode(), "num_inference_steps": 10}
WAIT_S = 30


@pytest.fixture
def database(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/serve.db"


@pytest.fixture
def key(database: str) -> str:
    opened = Database(database)
    opened.migrate()
    _, text = opened.run(keys.create_key, "tests", CREDITS)
    opened.close()
    return text


@contextmanager
def server(database: str, call_s: float = 0.0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that serves, and its address; killed at the end of the block if it has not ended."""
    command = [sys.executable, str(ROOT / "tests/serve/fake_server.py"), database, str(call_s)]
    path = ":".join(map(str, (ROOT / "runtime", ROOT / "tests")))
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={"PYTHONPATH": path})
    assert process.stderr
    try:
        for line in process.stderr:
            about = json.loads(line)
            if about["event"] == "listening":
                break
        url = f"http://{about['host']}:{about['port']}"
        until(lambda: answers(url))
        yield process, url
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def until(condition: Any) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def post(url: str, version: str, key: str) -> httpx.Response:
    return httpx.post(f"{url}/{version}/instantid", json=BODY, headers={"x-api-key": key}, timeout=WAIT_S)


def listen(url: str, key: str, heard: threading.Event) -> str:
    with httpx.stream("GET", url, headers={"x-api-key": key}, timeout=WAIT_S) as answer:
        text = ""
        for piece in answer.iter_text():
            text += piece
            heard.set()
    return text


def view(url: str, job: str, key: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{url}/v2/instantid/{job}", headers={"x-api-key": key}).json()
    return found


def credits_of(database: str, key: str) -> int:
    opened = Database(database)
    found = opened.run(keys.authenticate, key)
    opened.close()
    assert found
    return found.credits


def test_sigterm_lets_requests_in_work_end_and_keeps_jobs(database: str, key: str) -> None:
    with ThreadPoolExecutor() as threads:
        with server(database, 0.05) as (process, url):
            job = httpx.post(
                f"{url}/v2/instantid", json=BODY | {"num_inference_steps": 100}, headers={"x-api-key": key}
            ).json()["id"]
            heard = threading.Event()
            listening = threads.submit(listen, f"{url}/v2/instantid/{job}/events", key, heard)
            assert heard.wait(WAIT_S)
            waiting = threads.submit(post, url, "v1", key)
            until(lambda: credits_of(database, key) == CREDITS - 11)
            process.send_signal(signal.SIGTERM)
            assert waiting.result().status_code == 200
            assert "event: done" not in listening.result()  # and it has ended
            assert process.wait(WAIT_S) == 0
        with server(database) as (_, url):
            until(lambda: view(url, job, key)["status"] == "done")
            assert credits_of(database, key) == CREDITS - 11


def test_after_kill_9_no_credit_and_no_job_is_lost(database: str, key: str) -> None:
    jobs = []
    with ThreadPoolExecutor() as threads:
        for _ in range(3):
            with server(database, 0.05) as (process, url):
                before = credits_of(database, key)
                waiting = threads.submit(post, url, "v1", key)
                jobs.append(post(url, "v2", key).json()["id"])
                until(lambda before=before: credits_of(database, key) <= before - 2)
                process.kill()
                assert isinstance(waiting.exception(), httpx.TransportError)
    with server(database) as (_, url):
        for job in jobs:
            until(lambda job=job: view(url, job, key)["status"] == "done")
        assert credits_of(database, key) == CREDITS - len(jobs)


def test_large_headers_and_nonsense_are_refused(database: str, key: str) -> None:
    with server(database) as (_, url):
        for size, status in ((10_000, 200), (20_000, 431)):
            assert httpx.get(f"{url}/healthz", headers={"x-a": "b" * size}).status_code == status
        host, port = url.removeprefix("http://").split(":")
        for data in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n", b"\x16\x03\x01"):
            with socket.create_connection((host, int(port)), WAIT_S) as connection:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                said = connection.recv(1000)
                assert not said or b" 400 " in said
        assert answers(url)
