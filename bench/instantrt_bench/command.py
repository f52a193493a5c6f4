"""`instantrt bench`: the benchmarks' commands under one name."""

from __future__ import annotations

from instantrt.cli.command import CommandGroup
from instantrt_bench.fidelity.command import COMMAND as FIDELITY
from instantrt_bench.identity.command import COMMAND as IDENTITY
from instantrt_bench.latency.command import COMMAND as LATENCY
from instantrt_bench.regression.commands import COMPARE, GATE, HISTORY
from instantrt_bench.report.command import COMMAND as REPORT

BENCH = CommandGroup(
    "bench",
    "measure latency, fidelity and identity against the reference, and compare results",
    (LATENCY, FIDELITY, IDENTITY, COMPARE, GATE, HISTORY, REPORT),
)
