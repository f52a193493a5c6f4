"""A real server in processes of its own, for load tests: started, asked, killed, started again on the same books."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

from instantrt.errors import InstantRTError

READY_S = 120.0
POLL_S = 0.1  # a server that is starting measures what it can do: it should have the machine for itself
GRANT = 1_000_000  # credits of each account
COMMAND = (sys.executable, "-m", "instantrt.cli")


class ServerError(InstantRTError):
    """The server under test does not start or does not answer."""

    code = "server"


@dataclass(frozen=True)
class Key:
    """An account of the server under test: its id and the secret that clients send."""

    id: str
    secret: str


@dataclass
class Server:
    """`instantrt serve` on a bundle. A context manager: started on entry, stopped on exit.

    Args:
        bundle: what it serves.
        folder: for its books, settings and log; kept between starts.
        settings: of the TOML file beside those that a load test needs.
        threads: CPU threads of the worker.
    """

    bundle: Path
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None
    _process: subprocess.Popen[bytes] | None = None
    _port: int = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def database(self) -> str:
        """Its books, as SQLAlchemy writes them."""
        return f"sqlite:///{self.folder.resolve() / 'books.db'}"

    def start(self) -> None:
        """Start the server's process on its books, at the port that it had."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._port = self._port or free_port()
        lines = [f"{name} = {json.dumps(value)}" for name, value in self.settings.items()]
        config = self.folder / "serve.toml"
        config.write_text("\n".join([f"database = {json.dumps(self.database)}", *lines]) + "\n")
        threads = [] if self.threads is None else ["--threads", str(self.threads)]
        with (self.folder / "serve.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command
                [*COMMAND, "serve", str(self.bundle), "--config", str(config), "--port", str(self._port), *threads],
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self.kill()
        self._process = None

    def wait_until_ready(self) -> float:
        """Seconds until the server says that it is ready.

        Raises:
            ServerError: it ended, or was not ready in time.
        """
        began = time.monotonic()
        with httpx.Client(base_url=self.url, timeout=2) as http:
            while time.monotonic() - began < READY_S:
                if self._process is None or self._process.poll() is not None:
                    break
                try:
                    if http.get("/readyz").status_code == 200:
                        return time.monotonic() - began
                except httpx.TransportError:
                    pass  # it does not listen yet
                time.sleep(POLL_S)
        raise ServerError(
            "the server did not become ready",
            found=self._last_words(),
            hint=f"see {self.folder / 'serve.log'}",
        )

    def create_key(self, name: str) -> Key:
        """A new account with :data:`GRANT` credits."""
        command = [*COMMAND, "keys", "create", name, "--credits", str(GRANT), "--database", self.database, "--json"]
        made = _json_of(command)
        return Key(made["id"], made["text"])

    def credits(self) -> dict[str, int]:
        """What each account has, by key id."""
        command = [*COMMAND, "keys", "list", "--database", self.database, "--json"]
        listed = _json_of(command)
        return {key["id"]: key["credits"] for key in listed["keys"]}

    def processes(self) -> list[psutil.Process]:
        """The server's process, then those it started."""
        assert self._process is not None
        own = psutil.Process(self._process.pid)
        return [own, *own.children(recursive=True)]

    def kill_worker(self) -> None:
        """End the engine worker as a crash would."""
        for worker in self.processes()[1:]:
            worker.kill()

    def kill(self) -> None:
        """End the server as a crash would, and not its worker, which has to notice by itself."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _last_words(self) -> str:
        log = self.folder / "serve.log"
        return log.read_text(errors="replace")[-2000:] if log.exists() else "no log"


def _json_of(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own command
    return dict(json.loads(done.stdout))


def free_port() -> int:
    """A port of the loopback address at which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
