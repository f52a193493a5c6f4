"""`instantrt bench history`: keep result files in a folder and print how figures moved."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from instantrt.cli.common import print_json
from instantrt_bench.history import SHA_DIGITS, keep, read_history, trend
from instantrt_bench.micro import read_any_results
from instantrt_bench.tables import aligned

HEADER = ("created", "commit", "scenario", "system", "p50 ms", "interval", "ratio to eager", "status")


def run_history(args: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        ResultError: a file cannot be read, or the folder does not exist.
    """
    for path in args.add:
        keep(read_any_results(path), args.folder)
    rows = list(trend(read_history(args.folder), args.scenario))
    if args.json:
        print_json({"folder": str(args.folder), "rows": rows})
    else:
        sys.stdout.write(aligned([HEADER, *map(_row, rows)]) + "\n")


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    interval, ratio = row["latency_ms_interval"], row["ratio_eager"]
    commit = (row["commit"] or "-")[:SHA_DIGITS] + ("+" if row["dirty"] else "")
    return (
        row["created"],
        commit,
        row["scenario"],
        row["system"],
        "" if row["latency_ms_p50"] is None else f"{row['latency_ms_p50']:.4g}",
        "" if interval is None else f"[{interval['low']:.4g}, {interval['high']:.4g}]",
        "" if ratio is None else f"{ratio['estimate']:.2f}",
        row["status"],
    )
