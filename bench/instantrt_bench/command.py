"""`instantrt bench`: the benchmarks' commands under one name. What does the work is imported when a command runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

from instantrt.cli.bundles import user_cache
from instantrt.cli.command import Command, CommandGroup, ExitStatus
from instantrt.errors import OutputError
from instantrt_bench.cases.arguments import check_case_options
from instantrt_bench.fidelity import arguments as fidelity
from instantrt_bench.identity import arguments as identity
from instantrt_bench.latency import arguments as latency
from instantrt_bench.regression import arguments as regression
from instantrt_bench.report import arguments as report


def _load_latency() -> Callable[[latency.LatencyOptions], ExitStatus]:
    from instantrt_bench.latency.run import run_latency

    return run_latency


LATENCY = Command(
    "latency",
    "time requests end to end, the runtime's and the reference's runs alternating",
    latency.LatencyOptions,
    latency.add_arguments,
    _load_latency,
    lambda _: "bench",
    latency.check,
)


def _load_fidelity() -> Callable[[fidelity.FidelityOptions], ExitStatus]:
    from instantrt_bench.fidelity.run import run_fidelity

    return run_fidelity


FIDELITY = Command(
    "fidelity",
    "how far the runtime's networks, latents and pictures are from the reference's; exit status 3 if too far",
    fidelity.FidelityOptions,
    fidelity.add_arguments,
    _load_fidelity,
    lambda _: "bench",
    check_case_options,
)


def _load_identity() -> Callable[[identity.IdentityOptions], ExitStatus]:
    from instantrt_bench.identity.run import run_identity

    return run_identity


IDENTITY = Command(
    "identity",
    "whether generated faces resemble the photo as much as the reference's do; exit status 3 if not",
    identity.IdentityOptions,
    identity.add_arguments,
    _load_identity,
    lambda _: "bench",
    check_case_options,
)


def _load_report() -> Callable[[report.ReportOptions], ExitStatus]:
    with suppress(OutputError):  # without a home, matplotlib keeps its list of fonts in a temporary folder
        os.environ.setdefault("MPLCONFIGDIR", str(user_cache() / "matplotlib"))
    from instantrt_bench.report.run import run_report

    return run_report


REPORT = Command(
    "report",
    "one self-contained HTML page from result files",
    report.ReportOptions,
    report.add_arguments,
    _load_report,
    lambda _: "bench",
    report.check,
)


def _load_compare() -> Callable[[regression.CompareOptions], ExitStatus]:
    from instantrt_bench.regression.run_compare import run_compare

    return run_compare


COMPARE = Command(
    "compare",
    "hold two result files of one benchmark against each other; exit status 3 on a regression",
    regression.CompareOptions,
    regression.add_compare_arguments,
    _load_compare,
    lambda _: "bench",
)


def _load_gate() -> Callable[[regression.GateOptions], ExitStatus]:
    from instantrt_bench.regression.run_gate import run_gate

    return run_gate


GATE = Command(
    "gate",
    "measure two installations in alternating sessions and compare them; exit status 3 on a regression",
    regression.GateOptions,
    regression.add_gate_arguments,
    _load_gate,
    lambda _: "bench",
    regression.check_gate,
)


def _load_history() -> Callable[[regression.HistoryOptions], ExitStatus]:
    from instantrt_bench.regression.run_history import run_history

    return run_history


HISTORY = Command(
    "history",
    "keep result files in a folder, and show how figures moved from commit to commit",
    regression.HistoryOptions,
    regression.add_history_arguments,
    _load_history,
    lambda _: "bench",
    regression.check_history,
)


BENCH = CommandGroup(
    "bench",
    "measure latency, fidelity and identity against the reference, and compare results",
    (LATENCY, FIDELITY, IDENTITY, COMPARE, GATE, HISTORY, REPORT),
)
