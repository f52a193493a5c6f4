"""``python fake_server.py DATABASE SECONDS_PER_CALL``: the server that `instantrt serve` runs, with a fake worker."""

from __future__ import annotations

import sys

from instantrt_serve.app import create_app
from instantrt_serve.config import ServeConfig
from instantrt_serve.logs import start_logs
from instantrt_serve.run_serve import serve
from serve.fake_worker import FakeWorker

if __name__ == "__main__":
    settings = ServeConfig(database=sys.argv[1], port=0)
    start_logs("info")
    sys.exit(serve(create_app(settings, FakeWorker(delay_s=float(sys.argv[2]))), settings))
