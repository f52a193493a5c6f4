"""`instantrt bench history`: keep result files in a folder and print how figures moved."""

from __future__ import annotations

import sys
from typing import Any

from instantrt.cli.command import ExitStatus, print_json
from instantrt_bench.regression.arguments import HistoryOptions
from instantrt_bench.regression.history import SHA_DIGITS, keep, read_history, trend
from instantrt_bench.results.micro import read_any_results
from instantrt_bench.results.tables import aligned

HEADER = ("created", "commit", "scenario", "system", "p50 ms", "interval", "ratio to eager", "status")


def run_history(options: HistoryOptions) -> ExitStatus:
    """Run the command.

    Raises:
        ResultError: a file cannot be read, or the folder does not exist.
    """
    for results in [read_any_results(path) for path in options.add]:  # all are read before one is kept
        keep(results, options.folder)
    rows = list(trend(read_history(options.folder), options.scenario))
    if options.json:
        print_json({"folder": str(options.folder), "rows": rows})
    else:
        sys.stdout.write(aligned([HEADER, *map(_row, rows)]) + "\n")
    return ExitStatus.DONE


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
