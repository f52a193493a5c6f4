"""What `instantrt build` does: options in, plans built with their progress shown, a table out."""

from __future__ import annotations

from contextlib import closing, nullcontext
from typing import Any

from rich.table import Table

from instantrt.bundle import Bundle
from instantrt.cli.command import ExitStatus, ProgressDisplay, print_json
from instantrt.engine import ONNXRUNTIME_CUDA
from instantrt_engines.arguments import BuildCommandOptions
from instantrt_engines.build import BuildRequest, BuildResult, build_plans
from instantrt_engines.log import LogFile
from instantrt_engines.onnxruntime_cuda.build import rewrite_graphs
from instantrt_engines.options import BuildOptions
from instantrt_engines.profiles import ShapeOptions
from instantrt_engines.tables import megabytes, wide_console


def run_build(options: BuildCommandOptions) -> ExitStatus:
    """Run the command."""
    bundle, request = Bundle.open(options.bundle), build_request(options)
    results = []
    log_file = nullcontext(None) if options.log is None else closing(LogFile(options.log))
    with log_file as log, ProgressDisplay() as display:

        def progress(network: str, phase: str, share: float) -> None:
            display.show(network, share, 1.0, phase)

        rewrites = options.target == ONNXRUNTIME_CUDA
        for result in (
            rewrite_graphs(bundle, request, progress) if rewrites else build_plans(bundle, request, progress, log)
        ):
            results.append(result)
    if options.json:
        networks = [_record(result) for result in results]
        print_json({"bundle": str(options.bundle), "target": options.target, "networks": networks})
    else:
        _print_table(results)
    return ExitStatus.DONE


def build_request(options: BuildCommandOptions) -> BuildRequest:
    """The request that the command's arguments ask for."""
    return BuildRequest(
        target=options.target,
        shapes=ShapeOptions(
            slots=options.slots,
            slot_profiles=options.slot_profiles,
            sizes=tuple(options.sizes),
            size_profiles=options.size_profiles,
            guidance_batch=tuple(sorted(set(options.guidance_batch))),
        ),
        options=BuildOptions(
            optimization_level=options.optimization_level,
            tiling_level=options.tiling_level,
            aux_streams=options.aux_streams,
            strip_weights=options.strip_weights,
            weight_streaming=options.weight_streaming,
            hardware_compatibility=options.hardware_compatibility,
            version_compatible=options.version_compatible,
            fp32_attention=options.fp32_attention,
            compute=tuple(options.compute),
            timing_cache=options.timing_cache,
        ),
        only=None if options.only is None else tuple(options.only),
        force=options.force,
        allow_slow=options.allow_slow,
    )


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
