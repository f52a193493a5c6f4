"""What `instantrt serve` does: settings and database checked, then the app under uvicorn until a signal ends it."""

from __future__ import annotations

import signal
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from instantrt.cli.bundles import find_bundle
from instantrt.cli.command import ExitStatus, print_json
from instantrt.errors import InstantRTError
from instantrt_serve.accounts.database import Database
from instantrt_serve.app import create_app
from instantrt_serve.config import ServeConfig, load_config
from instantrt_serve.logs import log, start_logs
from instantrt_serve.options import ServeOptions
from instantrt_serve.worker_client import WorkerClient

if TYPE_CHECKING:
    from fastapi import FastAPI

WORKER_SETTINGS = (
    "target",
    "threads",
    "device",
    "runtime_cache",
    "precision_hint",
    "openvino_device",
    "slots",
    "lanes",
    "tracks",
)
BACKLOG = 2048
KEEP_ALIVE_S = 30


class ListenError(InstantRTError):
    """The server cannot listen at an address."""

    code = "listen"


def run_serve(options: ServeOptions) -> ExitStatus:
    """Serve until SIGTERM or SIGINT, then let requests in work end.

    Raises:
        ConfigError: a setting that cannot be.
        StorageError: the database cannot be written.
        DatabaseError: it is none, or of a later version.
        ListenError: the port is taken.
    """
    config = load_config(options.config, options.flags)
    with closing(Database(config.database)) as database:
        database.migrate()
    bundle = find_bundle(options.bundle, options.cache)
    if options.check:
        print_json({"bundle": str(bundle), **config.model_dump(mode="json")})
        return ExitStatus.DONE
    start_logs("info")
    return serve(create_app(config, worker_of(config, bundle)), config)


def worker_of(config: ServeConfig, bundle: Path) -> WorkerClient:
    """The client of a worker process for a bundle; nothing is started yet."""
    from instantrt_serve.supervisor import Supervisor, worker_command

    asked = {name: getattr(config, name) for name in WORKER_SETTINGS}
    flags = [(f"--{name.replace('_', '-')}", str(value)) for name, value in asked.items() if value is not None]
    worker: WorkerClient = Supervisor(worker_command(str(bundle), *chain.from_iterable(flags)))
    return worker


def serve(app: FastAPI, config: ServeConfig) -> ExitStatus:
    """Serve an app until a signal.

    Raises:
        ListenError: the port is taken.
    """
    server = DrainingServer(uvicorn_config(app, config), app.state.service.dispatch.stopping.set)
    with listening(config) as listener:
        host, port = listener.getsockname()[:2]
        log("listening", host=host, port=port)
        sys.stderr.flush()
        # uvicorn raises the signal once more after it has stopped; it has done its work by then.
        signal.signal(signal.SIGTERM, lambda *_: None)
        server.run(sockets=[listener])
    return ExitStatus.DONE


class DrainingServer(uvicorn.Server):
    """uvicorn, which tells the app when a signal asks it to stop: long answers must end, new ones must not begin.

    Args:
        config: uvicorn's settings.
        stop: called once per signal.
    """

    def __init__(self, config: uvicorn.Config, stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._stop = stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On a signal."""
        self._stop()
        super().handle_exit(sig, frame)


def uvicorn_config(app: FastAPI, config: ServeConfig) -> uvicorn.Config:
    """uvicorn's settings; it logs nothing of its own but through :mod:`logging`."""
    return uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        http="h11",  # its limit on headers is a setting
        ws="none",
        h11_max_incomplete_event_size=config.max_header_bytes,
        timeout_graceful_shutdown=round(config.drain_s),
        timeout_keep_alive=KEEP_ALIVE_S,
        backlog=BACKLOG,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
    )


def listening(config: ServeConfig) -> socket.socket:
    """A socket that listens where the settings say.

    Raises:
        ListenError: the port is taken, or the address is none of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        listener = socket.create_server((config.host, config.port), family=family, backlog=BACKLOG)
        # asyncio does this for sockets that say that they are TCP; those that this listener accepts do not. Without it,
        # an answer's second packet waits 40 ms for the client to acknowledge the first.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        found, hint = str(error.strerror), "use another --port or --host, or end what listens there"
        raise ListenError(f"cannot listen at {config.host}:{config.port}", found=found, hint=hint) from error
    return listener
