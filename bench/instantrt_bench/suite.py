"""All benchmarks of one bundle, one after the other: ``python -m instantrt_bench.suite`` (``make bench``).

Writes the result files, ``bench.json`` with the figures that matter most, and ``report.html``; with ``--full`` also
``bench-full.json`` and ``bench-full.md``, small enough to be committed. Every run is kept in the folder ``history``,
from which the report draws the trend.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from instantrt.atomic import replace_text
from instantrt.cli.arguments import parse_positive
from instantrt.cli.command import ExitStatus, run_to_status
from instantrt.cli.outputs import check_folder
from instantrt.threads import usable_cpus
from instantrt_bench.regression.history import keep
from instantrt_bench.report.compact import compact, compact_text, markdown
from instantrt_bench.results.files import ResultFile, read_results
from instantrt_bench.results.systems import CPU_MATRIX, RUNTIME_ONNXRUNTIME, SystemRow

BRIEF = ("--max-seconds", "20", "--measure-peak")  # of timed runs, so that all of nano's scenarios take two minutes
MATRIX = (
    *("--scenarios", "nano-matrix", "--measure-peak"),
    *("--warm-up", "1", "--min-samples", "5", "--max-samples", "20", "--max-seconds", "20"),
)
ONE_THREAD = "latency-1-thread"
IDENTITY_SEEDS = ("1", "2", "3")
HISTORY = "history"


@dataclass(frozen=True)
class Step:
    """One benchmark as it ran: its file's name, its command, its exit status and how long it took."""

    name: str
    command: tuple[str, ...]
    status: int
    seconds: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything. Returns 130 if the user ended it, else the status of the first benchmark that was not content.

    What was finished until then is merged and reported all the same.
    """
    options = _parser().parse_args(arguments)
    return run_to_status("python -m instantrt_bench.suite", lambda: _suite(options))


def _suite(options: argparse.Namespace) -> int:
    check_folder(options.out)
    steps = list(_run_all(commands(options), options.out))
    files = {step.name: options.out / f"{step.name}.json" for step in steps}
    by_name = {name: read_results(path) for name, path in files.items() if path.exists()}
    for results in by_name.values():
        keep(results, options.out / HISTORY)
    figures = bench_figures(by_name, steps)
    _write(options.out / "bench.json", json.dumps(figures, indent=1) + "\n")
    if options.full:
        kept = compact([results for results in by_name.values() if results.kind == "latency"], figures)
        _write(options.out / "bench-full.json", compact_text(kept) + "\n")
        _write(options.out / "bench-full.md", markdown(kept))
    statuses = [step.status for step in reversed(steps) if step.status == ExitStatus.INTERRUPTED]
    statuses += [step.status for step in steps]
    if by_name:
        statuses.append(_report([files[name] for name in by_name], options.out))
    return next((status for status in statuses if status), 0)


def _write(path: Path, text: str) -> None:
    replace_text(path, text)
    sys.stdout.write(f"{path}\n")


def _run_all(by_name: Mapping[str, Sequence[str]], out: Path) -> Iterator[Step]:
    """Every benchmark, until the user interrupts one."""
    for name, command in by_name.items():
        (out / f"{name}.json").unlink(missing_ok=True)  # a file of an earlier run must not pass for this one's
        start = time.perf_counter()
        status = _instantrt(command)
        yield Step(name, tuple(command), status, time.perf_counter() - start)
        if status == ExitStatus.INTERRUPTED:
            return


def _instantrt(arguments: Sequence[str]) -> int:
    """Run `instantrt` in a process of its own; returns its exit status."""
    with subprocess.Popen([sys.executable, "-m", "instantrt.cli", *arguments]) as process:  # noqa: S603
        try:
            return process.wait()
        except KeyboardInterrupt:  # it was told so too, writes what it has and ends
            return process.wait()


def _report(results: Sequence[Path], out: Path) -> int:
    files, history = map(str, results), str(out / HISTORY)
    return _instantrt(("bench", "report", *files, "--history", history, "--out", str(out / "report.html")))


def commands(options: argparse.Namespace) -> dict[str, tuple[str, ...]]:
    """The arguments of `instantrt` for each result file, by the file's name."""

    def command(name: str, threads: int | None, *more: str) -> tuple[str, ...]:
        common = (str(options.bundle), "--checkpoint", options.checkpoint, "--out", str(options.out / f"{name}.json"))
        counted = () if threads is None else ("--threads", str(threads))
        return ("bench", name.partition("-")[0], *common, *counted, *more)

    threads: int | None = options.threads
    pictures: tuple[str, ...] = ("--guidance-scale", f"{options.guidance_scale:g}")
    if options.manifest is not None:
        pictures += ("--manifest", str(options.manifest))
    latency = matrix_options(CPU_MATRIX) if options.full else BRIEF
    found = {
        "latency": command("latency", threads, *latency),
        "fidelity": command("fidelity", threads, *pictures),
        "identity": command("identity", threads, *pictures, "--seeds", *IDENTITY_SEEDS),
    }
    if options.full and (threads or usable_cpus()) > 1:
        # Kernels are made for a number of threads, and twice as many would take minutes more.
        one_thread = matrix_options([row for row in CPU_MATRIX if not row.compiled])
        return {"latency": found["latency"], ONE_THREAD: command(ONE_THREAD, 1, *one_thread), **found}
    return found


def matrix_options(rows: Iterable[SystemRow]) -> tuple[str, ...]:
    """Of `bench latency`: the whole matrix of those systems that are installed here."""
    return (*MATRIX, "--systems", *(row.id for row in rows if row.installed))


def bench_figures(by_name: Mapping[str, ResultFile], steps: Sequence[Step]) -> dict[str, Any]:
    """The figures that matter most, with sample counts; None for what was not measured or cannot be judged."""
    summaries: dict[str, dict[str, Any]] = {name: results.summary for name, results in by_name.items()}
    latency, fidelity, identity = (summaries.get(kind, {}) for kind in ("latency", "fidelity", "identity"))
    ratio = latency.get("ratio_eager", {}).get(RUNTIME_ONNXRUNTIME, {})
    any_file = next(iter(by_name.values()), None)
    return {
        "latency_ratio_eager": ratio.get("estimate"),
        "latency_ratio_eager_interval": [ratio["low"], ratio["high"]] if ratio else None,
        "latency_ratio_eager_samples": ratio.get("samples"),
        "latency_ratio_eager_scenario": ratio.get("scenario"),
        "latency_ratio_eager_geometric_mean": ratio.get("geometric_mean"),
        "latency_flags": latency.get("flags"),
        "worst_psnr_db": fidelity.get("worst_psnr_db"),
        "worst_ssim": fidelity.get("worst_ssim"),
        "worst_case": fidelity.get("worst_case"),
        "fidelity_cases": fidelity.get("cases_compared"),
        "fidelity_verdict": fidelity.get("verdict"),
        "identity_delta": identity.get("identity_delta"),
        "identity_delta_interval": identity.get("identity_delta_interval"),
        "identity_pairs": identity.get("judges", {}).get(identity.get("identity_judge"), {}).get("pairs"),
        "identity_cases": identity.get("cases"),
        "identity_judge": identity.get("identity_judge"),
        "identity_verdict": identity.get("verdict"),
        "identity_statement": identity.get("statement"),
        "machine": None if any_file is None else any_file.machine,
        "commit": None if any_file is None else any_file.commit,
        "seconds": {step.name: round(step.seconds, 1) for step in steps},
        "exit_status": {step.name: step.status for step in steps},
        "commands": {step.name: " ".join(("instantrt", *step.command)) for step in steps},
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m instantrt_bench.suite", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder that `instantrt export` made")
    parser.add_argument("checkpoint", help="the checkpoint it was made from: folder or hub id")
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--threads", type=parse_positive, help="of each system; default: all usable")
    parser.add_argument("--manifest", type=Path, help="photos and prompts of fidelity and identity; default: theirs")
    parser.add_argument("--guidance-scale", type=float, default=5.0, help="likewise (default: %(default)s)")
    parser.add_argument(
        "--full", action="store_true", help="latency of all systems that run on a CPU, on all threads and on one"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
