"""Plain text tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from instantrt_bench.results.files import ScenarioResult, SystemResult

LATENCY_COLUMNS = ("", "p50 ms", "p90 ms", "p99 ms", "n", "pictures/s", "step ms", "host us/step", "ratio to eager")


def aligned(rows: Sequence[Sequence[str]], indent: int = 0) -> str:
    """Columns as wide as their widest cell: the first flush left, the others flush right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for first, *rest in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))]
        lines.append((" " * indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def scenario_table(scenario: ScenarioResult) -> str:
    """A line per system of a latency scenario, what failed, and what makes the times doubtful."""
    ratios = scenario.comparison["ratios"]
    rows = [_latency_row(name, s, ratios.get(name)) for name, s in scenario.systems.items() if s.summary]
    notes = [f"{name} {s.status}: {s.error}" for name, s in scenario.systems.items() if s.status == "failed"]
    notes += [f"note: {flag}" for flag in scenario.comparison["flags"]]
    table = aligned([LATENCY_COLUMNS, *rows], indent=2)
    return "\n".join([scenario.id, table, *(f"  {note}" for note in notes)]) + "\n"


def _latency_row(name: str, system: SystemResult, ratio: dict[str, float] | None) -> tuple[str, ...]:
    summary = system.summary
    latency = summary["latency_ms"]
    return (
        name,
        *(f"{latency[key]:.1f}" for key in ("p50", "p90", "p99")),
        str(latency["n"]),
        f"{summary['pictures_per_s']:.2f}",
        f"{summary['call_ms']['p50']:.2f}",
        f"{summary['host_overhead_us_per_call']['p50']:.0f}",
        f"{ratio['estimate']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]" if ratio else "",
    )
