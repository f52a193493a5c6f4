"""`instantrt bench compare`: two files of one benchmark, a verdict for each scenario, an exit status for CI."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from instantrt.cli.command import ExitStatus, print_json
from instantrt.errors import RequestError
from instantrt_bench.regression.arguments import CompareOptions
from instantrt_bench.regression.compare import Change, Comparison, Rule, compare_results
from instantrt_bench.results.files import ResultError
from instantrt_bench.results.micro import read_any_results
from instantrt_bench.results.tables import aligned


def run_compare(options: CompareOptions) -> ExitStatus:
    """Run the command: ``MISSED`` on a regression.

    Raises:
        ResultError: a file cannot be read, or the two are not comparable and a verdict is wanted.
        RequestError: a threshold or confidence that makes no sense.
    """
    if not options.threshold > 0 or not 0 < options.confidence < 1:
        found = f"--threshold {options.threshold:g}, --confidence {options.confidence:g}"
        what = "--threshold must be above 0, and --confidence between 0 and 1"
        raise RequestError(what, found=found, hint="e.g. 0.05 and 0.95, the defaults")
    before, after = read_any_results(options.before), read_any_results(options.after)
    rule = Rule(options.threshold, options.threshold_apart, options.confidence)
    comparison = compare_results(before, after, rule)
    if options.no_verdict:
        comparison = comparison.without_verdicts()
    elif comparison.refusals:
        raise ResultError(
            f"{options.before} and {options.after} are not comparable",
            found="; ".join(comparison.refusals),
            hint="measure both on one machine with the same options; --no-verdict shows the figures without judging",
        )
    if options.json:
        print_json(_as_json(comparison))
    else:
        sys.stdout.write(_as_text(comparison))
    return ExitStatus.MISSED if comparison.regressed else ExitStatus.DONE


def _as_json(comparison: Comparison) -> dict[str, object]:
    return {
        "regressed": comparison.regressed,
        "changes": [change.to_json() for change in comparison.changes],
        "refusals": comparison.refusals,
        "notes": comparison.notes,
    }


def _as_text(comparison: Comparison) -> str:
    header = ("scenario", "system", "judged by", "A ms", "B ms", "B/A", "interval", "verdict")
    lines = [aligned([header, *map(_row, comparison.changes)])] if comparison.changes else []
    lines += [f"not comparable: {reason}" for reason in comparison.refusals]
    lines += _change_notes(comparison.changes)
    lines += [f"note: {note}" for note in comparison.notes]
    judged = any(change.verdict != "not judged" for change in comparison.changes)
    lines.append("REGRESSION" if comparison.regressed else "no regression" if judged else "no verdict")
    return "\n".join(lines) + "\n"


def _change_notes(changes: Sequence[Change]) -> list[str]:
    """What is said of single changes; what is said of all, once."""
    noted: dict[str, list[Change]] = {}
    for change in changes:
        if change.note:
            noted.setdefault(change.note, []).append(change)
    return [
        note if len(those) == len(changes) > 1 else f"{', '.join(f'{c.scenario} {c.system}' for c in those)}: {note}"
        for note, those in noted.items()
    ]


def _row(change: Change) -> tuple[str, ...]:
    ratio = change.ratio
    return (
        change.scenario,
        change.system,
        change.metric,
        *("" if ms is None else f"{ms:.4g}" for ms in (change.before_ms, change.after_ms)),
        "" if ratio is None else f"{ratio.estimate:.3f}",
        "" if ratio is None else f"[{ratio.low:.3f}, {ratio.high:.3f}]",
        change.verdict,
    )
