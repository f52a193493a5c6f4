"""What `instantrt export` does: open the checkpoint, write the bundle, report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from instantrt.cli.command import ExitStatus, ProgressDisplay, print_json
from instantrt_export.arguments import ExportOptions
from instantrt_export.bundle import write_bundle
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.export import ExportedNetwork
from instantrt_export.picture_sizes import picture_sizes


def run_export(options: ExportOptions) -> ExitStatus:
    """Run the command."""
    checkpoint = Checkpoint.open(
        options.checkpoint,
        identitynet=options.identitynet,
        adapter=options.adapter,
        faces=options.faces,
        revision=options.revision,
    )
    sizes = picture_sizes(checkpoint, options.size, options.min_size, options.max_size)
    with ProgressDisplay() as display:
        exported = write_bundle(
            checkpoint,
            options.out,
            sizes,
            slots=options.slots,
            precision=options.precision,
            only=options.only,
            check_parity=options.parity,
            vae_precision=options.vae_precision,
            progress=lambda name, done, total: display.show("export", done, total, name),
        )
    if options.json:
        print_json({"bundle": str(options.out), "networks": [_record(e) for e in exported]})
    else:
        _print_table(options.out, exported)
    return ExitStatus.DONE


def _record(network: ExportedNetwork) -> dict[str, Any]:
    return {
        "name": network.name,
        "file": network.path.name,
        "seconds": round(network.seconds, 2),
        "onnx_bytes": network.onnx_bytes,
        "parity_error": network.parity_error,
    }


def _print_table(bundle: Path, exported: list[ExportedNetwork]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading, justify in (("network", "left"), ("seconds", "right"), ("MB", "right"), ("error to torch", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for network in exported:
        error = "-" if network.parity_error is None else f"{network.parity_error:.1e}"
        table.add_row(network.name, f"{network.seconds:.1f}", f"{network.onnx_bytes / 1e6:.1f}", error)
    console = Console()
    console.print(table)
    console.print(f"bundle in {bundle}", highlight=False)
