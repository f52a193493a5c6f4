"""What `instantrt inspect` does: a bundle's networks, costs and device memory as tables or JSON."""

from __future__ import annotations

from functools import partial

from rich.console import Console
from rich.table import Table

from instantrt.bundle import Bundle
from instantrt.cli.command import ExitStatus, print_json
from instantrt.memory import RESERVE_BYTES, DeviceMemory
from instantrt.plan import describe_profile
from instantrt.residency import RESIDENCIES
from instantrt_engines.arguments import InspectOptions
from instantrt_engines.inspect import BundleReport, Sizes, inspect_bundle, report_json
from instantrt_engines.tables import megabytes, wide_console


def run_inspect(options: InspectOptions) -> ExitStatus:
    """Run the command."""
    bundle = Bundle.open(options.bundle)
    width, height = options.size or bundle.manifest.sizes.default
    report = inspect_bundle(bundle, options.target, Sizes(options.slots, options.guidance_batch, width, height))
    if options.json:
        print_json(report_json(report, options.vram))
        return ExitStatus.DONE
    _print_report(report)
    if options.tensors:
        _print_tensors(report)
    if options.vram is not None:
        print_fit(report, options.vram)
    return ExitStatus.DONE


def _print_report(report: BundleReport) -> None:
    sizes, console = report.sizes, wide_console()
    say = partial(console.print, highlight=False, soft_wrap=True)
    plans = f"{report.target} plans" if report.target else "no plans built"
    say(f"{report.bundle.folder}: {report.bundle.precision}, {plans}")
    guidance = "on" if sizes.guidance_batch == 2 else "off"
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
    parts = {f"weights, {stage}": count for stage, count in memory.weights.items()}
    parts |= {f"activations, {stage}": count for stage, count in memory.activations.items()}
    parts |= {
        "inputs and outputs, one shape": memory.one_shape_bytes,
        "inputs and outputs, all kept shapes": memory.kept_bytes,
        "CUDA and TensorRT (assumed)": RESERVE_BYTES,
    }
    for residency in filter(memory.has, RESIDENCIES):
        parts[f"in all, {residency}, one shape"] = memory.one_shape_needed_bytes(residency)
        parts[f"in all, {residency}, all kept shapes"] = memory.needed_bytes(residency)
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
                say(f"  {kind:<3} {spec.name:<20} {dtype:<7} {list(spec.resolve(report.sizes.symbols(contract)))}")


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


def print_fit(report: BundleReport, vram_bytes: int) -> None:
    """Say with which residency it fits, by how much, and what can be done if not with all weights loaded."""
    fit = report.fit(vram_bytes)
    say = partial(Console().print, highlight=False, soft_wrap=True, markup=False)
    room = f"{vram_bytes / 1e9:.2f} GB"
    for one in fit.residencies:
        spare = f"{abs(vram_bytes - one.needed_bytes) / 1e9:.2f} GB {'to spare' if one.fits else 'too much'}"
        verdict = "fits" if one.fits else "does not fit"
        say(f"{one.residency}: {verdict} into {room}: needs at most {one.needed_bytes / 1e9:.2f} GB, {spare}")
        if not one.fits and one.one_shape_bytes <= vram_bytes:
            say(f"  it fits as long as all requests have this one shape: needs {one.one_shape_bytes / 1e9:.2f} GB")
    for remedy in report.remedies(fit):
        say(f"To do: {remedy}")
