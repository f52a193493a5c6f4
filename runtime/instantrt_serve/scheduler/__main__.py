"""``python -m instantrt_serve.scheduler RESULTS``: simulate a fleet with a latency benchmark's times; prints JSON."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from instantrt_serve.admission import AdmissionLimits
from instantrt_serve.scheduler.policy import Limits
from instantrt_serve.scheduler.simulation import Load, ServiceTimes, report, simulate, utilisation


def main(arguments: list[str] | None = None) -> int:
    """Run the simulation; the exit status."""
    options = parser().parse_args(arguments)
    load = Load(options.requests_per_s, options.seconds, options.devices, options.deadline_s, options.seed)
    results = json.loads(options.results.read_text(encoding="utf-8"))
    times = ServiceTimes.of_results(results, options.system)
    scale = 1.0 if options.utilisation is None else options.utilisation / utilisation(load, times)
    times = times.scaled(scale)
    outcome = simulate(load, times, Limits(options.lanes), AdmissionLimits())
    figures = {"load": asdict(load), "system": options.system, "service_time_scale": round(scale, 4)}
    sys.stdout.write(json.dumps({**figures, **report(load, times, outcome)}, indent=1) + "\n")
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(prog="python -m instantrt_serve.scheduler", description=__doc__)
    parser.add_argument("results", type=Path, help="result file of `instantrt bench latency`")
    parser.add_argument("--system", default="runtime-onnxruntime", help="whose times in that file")
    parser.add_argument("--requests-per-s", type=float, default=Load.requests_per_s)
    parser.add_argument("--seconds", type=float, default=Load.seconds)
    parser.add_argument("--devices", type=int, default=Load.devices)
    parser.add_argument("--deadline-s", type=float, default=Load.deadline_s)
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--seed", type=int, default=Load.seed)
    parser.add_argument(
        "--utilisation",
        type=float,
        help="scale the file's times so that the load asks for this share of the devices: what they would have to be",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
