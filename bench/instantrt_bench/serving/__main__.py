"""``python -m instantrt_bench.serving load|short|overhead|overload|soak|kills BUNDLE``: a server, tried hard."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from instantrt.atomic import replace_text
from instantrt.bundle import Bundle, PictureSizes
from instantrt.request import MAX_SIDE_PX
from instantrt_bench.cases.portrait import portrait_jpeg
from instantrt_bench.results.machine import machine_facts
from instantrt_bench.serving.client import Clients
from instantrt_bench.serving.kills import run_kills
from instantrt_bench.serving.load import run_load
from instantrt_bench.serving.mix import Mix
from instantrt_bench.serving.overhead import RUNS, run_overhead
from instantrt_bench.serving.overload import run_overload
from instantrt_bench.serving.server import Server
from instantrt_bench.serving.short_beside_long import run_short_beside_long
from instantrt_bench.serving.soak import run_soak

CLIENTS, ACCOUNTS = 32, 4
PHOTOS = {f"portrait-{variant}": variant for variant in range(8)}  # few people, each seen again
SIZES = [(64, 64), (128, 128), (128, 64), (192, 128)]
ROUNDS = 10


def _load(bundle: Path, folder: Path, count: int) -> dict[str, Any]:
    with Server(bundle, folder, {"max_waiting": 100, "timeout_s": 600}) as server:
        return run_load(server, _mix(bundle, count), _photos())


def _short(bundle: Path, folder: Path, count: int) -> dict[str, Any]:
    with Server(bundle, folder) as server:
        return run_short_beside_long(server, portrait_jpeg(), count)


def _overload(bundle: Path, folder: Path, count: int) -> dict[str, Any]:
    with Server(bundle, folder, {"timeout_s": 5, "max_waiting": 32}) as server:
        return run_overload(server, portrait_jpeg(), count)


def _overhead(bundle: Path, folder: Path, count: int) -> dict[str, Any]:
    with Server(bundle, folder) as server:
        server.wait_until_ready()
        return run_overhead(server, Clients(server.url, [server.create_key("overhead").secret], _photos()), count)


def _soak(bundle: Path, folder: Path, count: int) -> dict[str, Any]:
    with Server(bundle, folder, {"max_waiting": 100, "timeout_s": 600}) as server:
        return run_soak(server, _mix(bundle, count, largest=64), _photos())


def _kills(bundle: Path, folder: Path, count: int) -> dict[str, Any]:
    mix = Mix(64, 8, ACCOUNTS, list(PHOTOS), [(64, 64)], cancelled=0, twice=0.3)
    with Server(bundle, folder, {"max_attempts": 100, "timeout_s": 60}) as server:
        return run_kills(server, mix, _photos(), count)


COMMANDS: dict[str, tuple[Callable[[Path, Path, int], dict[str, Any]], int, str]] = {
    "load": (_load, 500, "requests of every kind from 32 clients"),
    "short": (_short, ROUNDS, "rounds of a request of 4 steps beside one of 100"),
    "overhead": (_overhead, RUNS, "runs of one request over HTTP and without"),
    "overload": (_overload, 60, "seconds at five times the capacity"),
    "soak": (_soak, 2000, "requests, looking at memory, files and threads"),
    "kills": (_kills, 20, "kills of worker or server under load"),
}


def _mix(bundle: Path, count: int, largest: int = MAX_SIDE_PX) -> Mix:
    """Sizes that the bundle has, none of them longer than ``largest``."""
    limits = Bundle.open(bundle).manifest.sizes
    sizes = [size for size in SIZES if max(size) <= largest and _has(limits, size)] or [limits.default]
    return Mix(count, CLIENTS, ACCOUNTS, list(PHOTOS), sizes)


def _has(limits: PictureSizes, size: tuple[int, int]) -> bool:
    return all(low <= side <= high for low, side, high in zip(limits.min, size, limits.max, strict=True))


def _photos() -> dict[str, bytes]:
    return {name: portrait_jpeg(variant) for name, variant in PHOTOS.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one, write its figures to the file, and print them."""
    parser = argparse.ArgumentParser(prog="python -m instantrt_bench.serving", description=__doc__)
    parser.add_argument(
        "run", choices=COMMANDS, help="; ".join(f"{name}: {about}" for name, (_, _, about) in COMMANDS.items())
    )
    parser.add_argument("bundle", type=Path)
    counts = ", ".join(f"{name} {count}" for name, (_, count, _) in COMMANDS.items())
    parser.add_argument("--count", type=int, help=f"how many (default: {counts})")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    run, count, _ = COMMANDS[options.run]
    with tempfile.TemporaryDirectory() as folder:
        figures = run(options.bundle, Path(folder), options.count or count)
    text = json.dumps({"run": options.run, "machine": machine_facts(), **figures}, indent=1) + "\n"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(options.out, text)
    sys.stdout.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
