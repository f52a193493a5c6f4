"""``python -m instantrt_bench.serving.demo BUNDLE --out FOLDER``: a server, one request, the page in a browser."""

from __future__ import annotations

import argparse
import base64
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from instantrt.atomic import replace_file
from instantrt_bench.cases.portrait import portrait_jpeg
from instantrt_bench.serving.client import TIMEOUT_S, server_timing
from instantrt_bench.serving.server import Server

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WINDOW = (1280, 960)
BODY: dict[str, Any] = {"prompt": "portrait photo of a person in a garden", "style": "Vibrant Color", "seed": 7}


def show(bundle: Path, out: Path) -> None:
    """Start, ask, look, stop; what happens is told on stdout."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, Server(bundle, Path(folder)) as server:
        sys.stdout.write(f"server ready at {server.url} after {server.wait_until_ready():.1f} s\n")
        key = server.create_key("demo")
        body = {**BODY, "face_image": base64.b64encode(portrait_jpeg()).decode()}
        headers = {"x-api-key": key.secret}
        answer = httpx.post(f"{server.url}/v1/instantid", json=body, headers=headers, timeout=TIMEOUT_S)
        answer.raise_for_status()
        picture = out / "picture.jpg"
        replace_file(picture, lambda file: file.write(answer.content))
        took_ms = server_timing(answer.headers["server-timing"])["total"]
        seed, left = answer.headers["x-seed"], answer.headers["x-remaining-credits"]
        sys.stdout.write(f"POST /v1/instantid: {picture}, seed {seed}, {took_ms:.0f} ms, {left} credits left\n")
        sys.stdout.write(f"the page: {_screenshot(server.url, out / 'page.png')}\n")
    sys.stdout.write("server stopped\n")


def _screenshot(url: str, path: Path) -> str:
    """The screenshot's path, or why there is none."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        return f"no screenshot, none of {', '.join(BROWSERS)} is installed"
    size = f"--window-size={WINDOW[0]},{WINDOW[1]}"
    loaded = "--virtual-time-budget=5000"  # so that the page has asked for what may be chosen
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", size, loaded]
    with tempfile.TemporaryDirectory() as profile:
        run = [*command, f"--user-data-dir={profile}", f"--screenshot={path.resolve()}", f"{url}/"]
        done = subprocess.run(run, check=False, capture_output=True, timeout=60)  # noqa: S603 - a browser on our own page
    return str(path) if path.exists() else f"no screenshot, {Path(browser).name} ended with {done.returncode}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Show it."""
    parser = argparse.ArgumentParser(prog="python -m instantrt_bench.serving.demo", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    show(options.bundle, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
