"""`instantrt build` and `instantrt inspect`: options in, progress and reports out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from instantrt.bundle import Bundle
from instantrt.cli.common import print_json
from instantrt.errors import RequestError
from instantrt.plan import describe_profile
from instantrt_engines.build import BuildProgress, BuildRequest, BuildResult, build_plans
from instantrt_engines.inspect import BundleReport, Sizes, inspect_bundle, report_json
from instantrt_engines.memory import RESERVE_BYTES, DeviceMemory, Fit
from instantrt_engines.options import BuildOptions
from instantrt_engines.profiles import ShapeOptions

TABLE_COLUMNS = 120


def build_command(args: argparse.Namespace) -> None:
    """Run `instantrt build` with its parsed arguments."""
    bundle, request = Bundle.open(args.bundle), build_request(args)
    results = []
    with _log_file(args.log) as log, progress_bar() as progress:
        for result in build_plans(bundle, request, progress, log):
            results.append(result)
    if args.json:
        print_json({"bundle": str(args.bundle), "target": args.target, "networks": [_record(r) for r in results]})
    else:
        _print_table(results)


def inspect_command(args: argparse.Namespace) -> None:
    """Run `instantrt inspect` with its parsed arguments."""
    bundle = Bundle.open(args.bundle)
    width, height = args.size or bundle.manifest.sizes.default
    report = inspect_bundle(bundle, args.target, Sizes(args.slots, args.halves, width, height))
    if args.json:
        print_json(report_json(report, args.vram))
        return
    _print_report(report)
    if args.tensors:
        _print_tensors(report)
    if args.vram is not None:
        print_fit(report.fit(args.vram), args.vram)


def build_request(args: argparse.Namespace) -> BuildRequest:
    """The request that the command's arguments ask for."""
    return BuildRequest(
        target=args.target,
        shapes=ShapeOptions(
            batch=args.batch,
            sizes=tuple(args.sizes),
            size_profiles=args.size_profiles,
            halves=tuple(sorted(set(args.halves))),
        ),
        options=BuildOptions(
            optimization_level=args.optimization_level,
            aux_streams=args.aux_streams,
            strip_weights=args.strip_weights,
            weight_streaming=args.weight_streaming,
            hardware_compatibility=args.hardware_compatibility,
            version_compatible=args.version_compatible,
            compute=tuple(args.compute),
            timing_cache=args.timing_cache,
        ),
        only=None if args.only is None else tuple(args.only),
        force=args.force,
        allow_slow=args.allow_slow,
    )


@contextmanager
def progress_bar() -> Iterator[BuildProgress]:
    """A bar per network on a terminal, nothing in a pipe."""
    phase_column = TextColumn("{task.fields[phase]}")
    columns = (TextColumn("{task.description:<18}"), BarColumn(), phase_column, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        tasks: dict[str, Any] = {}

        def report(network: str, phase: str, share: float) -> None:
            if network not in tasks:
                for task in tasks.values():
                    bar.update(task, completed=1.0, phase="")
                tasks[network] = bar.add_task(network, total=1.0, phase="")
            bar.update(tasks[network], completed=share, phase=phase[:40])

        yield report
        for task in tasks.values():
            bar.update(task, completed=1.0, phase="")


def _log_file(path: Path | None) -> Any:
    """An open file for TensorRT's log, or nothing."""
    if path is None:
        return nullcontext()
    try:
        file: TextIO = path.open("w", encoding="utf-8")
    except OSError as error:
        raise RequestError(f"the log cannot be written to {path}", found=error.strerror) from error
    return file


def _record(result: BuildResult) -> dict[str, Any]:
    record = result.record
    return {
        "name": record.identity.network,
        "built": result.reason is not None,
        "reason": result.reason,
        "seconds": record.build_seconds,
        "plan_bytes": record.file.bytes,
        "weight_bytes": record.weight_bytes,
        "activation_bytes": list(record.activation_bytes),
        "layers": record.layers,
    }


def _print_table(results: list[BuildResult]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("network")
    for heading in ("seconds", "plan MB", "weights MB", "activations MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("")
    for result in results:
        record = result.record
        table.add_row(
            record.identity.network,
            f"{record.build_seconds:.1f}",
            f"{record.file.bytes / 1e6:.1f}",
            megabytes(record.weight_bytes),
            megabytes(max(record.activation_bytes, default=None)),
            "still valid" if result.reason is None else "built",
        )
    wide_console().print(table)


def _print_report(report: BundleReport) -> None:
    sizes, console = report.sizes, wide_console()
    say = partial(console.print, highlight=False, soft_wrap=True)
    plans = f"{report.target} plans" if report.target else "no plans built"
    say(f"{report.bundle.folder}: {report.bundle.precision}, {plans}")
    guidance = "on" if sizes.halves == 2 else "off"
    say(f"one call at {sizes.width}x{sizes.height}, slots {sizes.slots}, guidance {guidance}\n")
    console.print(_cost_table(report))
    for network in report.networks:
        if network.plan_problem is not None:
            say(network.plan_problem)
    if report.memory is not None:
        say("")
        console.print(_memory_table(report.memory))


def _memory_table(memory: DeviceMemory) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("device memory")
    table.add_column("MB", justify="right", no_wrap=True)
    parts = {f"weights, {stage}": count for stage, count in memory.weights.items()} | {
        "activations, one arena for all": memory.arena_bytes,
        "inputs and outputs": memory.buffer_bytes,
        "CUDA and TensorRT (assumed)": RESERVE_BYTES,
        "in all": memory.total_bytes,
    }
    for part, count in parts.items():
        table.add_row(part, megabytes(count))
    return table


def _print_tensors(report: BundleReport) -> None:
    """The inputs and outputs of every network with their shapes, and the profile that holds them."""
    say = partial(wide_console().print, highlight=False, soft_wrap=True, markup=False)
    for network in report.networks:
        contract, plan = network.contract, network.plan
        title = f"\n{contract.name}"
        if plan is not None and network.profile is not None:
            title += f", profile {describe_profile(plan.record.identity.profiles[network.profile])}"
        say(title)
        for kind, specs in (("in", contract.inputs), ("out", contract.outputs)):
            for spec in specs:
                dtype = str(spec.numpy_dtype(report.bundle.precision))
                say(f"  {kind:<3} {spec.name:<20} {dtype:<7} {list(spec.resolve(report.sizes.symbols))}")


def _cost_table(report: BundleReport) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("network", "stage", "type"):
        table.add_column(heading, no_wrap=True)
    for heading in ("M parameters", "GFLOP", "MB moved", "plan MB", "weights MB", "activations MB"):
        table.add_column(heading, justify="right", no_wrap=True)
    for network in report.networks:
        table.add_row(
            network.contract.name,
            network.contract.stage,
            network.precision,
            f"{network.cost.parameters / 1e6:.1f}",
            f"{network.cost.flops / 1e9:.2f}",
            f"{network.cost.bytes / 1e6:.1f}",
            megabytes(None if network.plan is None else network.plan.record.file.bytes),
            f"{network.device_weight_bytes / 1e6:.1f}",
            megabytes(network.activation_bytes),
        )
    return table


def print_fit(fit: Fit, vram_bytes: int) -> None:
    """Say whether and how it fits."""
    room, needed = f"{vram_bytes / 1e9:.2f} GB", f"{fit.needed_bytes / 1e9:.2f} GB"
    said = {
        "resident": f"fits into {room} with all weights loaded ({needed})",
        "staged": f"fits into {room} ({needed}) if text and face networks are freed before the loop "
        "and the VAE is loaded after it",
        "streaming": f"fits into {room} if it is staged and {(fit.weight_budget_bytes or 0) / 1e9:.2f} GB of the "
        "loop's weights stay on the device while the others are streamed",
        "none": f"does not fit into {room}: needs {needed} staged; plans built with --weight-streaming need less",
    }
    Console().print(said[fit.staging], highlight=False, soft_wrap=True)


def wide_console() -> Console:
    """Standard output, wide enough for the tables when it is a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=TABLE_COLUMNS)


def megabytes(count: int | None) -> str:
    """``"12.3"``, or a dash if unknown."""
    return "-" if count is None else f"{count / 1e6:.1f}"
