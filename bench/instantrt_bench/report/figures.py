"""Numbers as text, and the frame around every figure and table of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from instantrt_bench.report.markup import Child, Html, join, tag
from instantrt_bench.results import ResultFile

NOTHING = "\u2013"
SHA_DIGITS = 10
SYSTEM_CLASSES = {
    "runtime-onnxruntime": "s1",
    "runtime-tensorrt": "s2",
    "runtime-tensorrt-rtx": "s3",
    "reference-eager": "s0",
    "reference-compiled": "s4",
}
"""Colours follow the system, not its place in a figure."""

Cell = str | Html | float | None


def number(value: float | None, digits: int = 3) -> str:
    """To ``digits`` significant digits, very small ones as powers of ten; a dash for None."""
    if value is None:
        return NOTHING
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if abs(value) < 1e-3:
        return f"{value:.1e}"
    before_point = math.floor(math.log10(abs(value))) + 1
    return f"{value:,.{max(0, digits - max(1, before_point))}f}"


def interval(found: Mapping[str, Any] | Sequence[float] | None, digits: int = 3) -> str:
    """``[low, high]`` of an interval's plain data, or of two bounds."""
    bounds = bounds_of(found)
    return NOTHING if bounds is None else f"[{number(bounds[0], digits)}, {number(bounds[1], digits)}]"


def bounds_of(found: Mapping[str, Any] | Sequence[float] | None) -> tuple[float, float] | None:
    """Low and high of an interval's plain data, or of two bounds."""
    if not found:
        return None
    low, high = (found["low"], found["high"]) if isinstance(found, Mapping) else found
    return float(low), float(high)


def system_class(system: str) -> str:
    """The class that colours a system."""
    return SYSTEM_CLASSES.get(system, "s5")


def commit_text(commit: Mapping[str, Any]) -> str:
    """The commit's first digits, and whether there were changes on top."""
    sha = commit.get("sha")
    if not sha:
        return "no commit"
    return f"{str(sha)[:SHA_DIGITS]}{' with uncommitted changes' if commit.get('dirty') else ''}"


def machine_text(results: ResultFile) -> str:
    """Processor or GPU and threads, in short."""
    machine = results.machine
    device = machine.get("gpu") or f"{machine.get('cpu')}, {machine.get('logical_cpus')} logical CPUs"
    return f"{device}, {results.threads} threads" if results.threads else str(device)


def figure(title: str, body: Html, note: str, *sources: ResultFile) -> Html:
    """A titled figure with what it shows, on what it was measured and the command that made it."""
    origins = [
        tag("p", tag("code", source.command, class_="command"), f" on {machine_text(source)}", class_="origin")
        for source in sources
    ]
    caption = tag("figcaption", tag("p", note) if note else None, *origins)
    return tag("figure", tag("h3", title), body, caption)


def table(header: Sequence[str], rows: Sequence[Sequence[Cell]], label: str) -> Html:
    """A table that scrolls sideways inside its own box; numbers stand flush right, the first column heads its row."""
    head = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in header)))
    body = tag("tbody", *(tag("tr", *(_cell(cell, index == 0) for index, cell in enumerate(row))) for row in rows))
    return tag("div", tag("table", head, body), class_="scroll", tabindex="0", role="region", aria_label=label)


def folded(title: str, *children: Child) -> Html:
    """Details that open on demand, without scripts."""
    return tag("details", tag("summary", title), *children)


def notice(text: Child, kind: str = "note") -> Html:
    """One line that must not be missed; ``kind`` is ``note``, ``warning`` or ``bad``."""
    word = {"note": "Note", "warning": "Caution", "bad": "Failed"}[kind]
    return tag("p", tag("strong", f"{word}: "), text, class_=f"notice {kind}")


def section(identity: str, title: str, *children: Child) -> Html:
    """A part of the page that the contents link to."""
    return tag("section", tag("h2", title), *children, id=identity)


def definition_list(facts: Mapping[str, Any]) -> Html:
    """Names and values; nested values as ``name value`` pairs."""
    return tag("dl", *(join(tag("dt", name), tag("dd", _plain(value))) for name, value in facts.items()))


def _cell(cell: Cell, heads_row: bool) -> Html:
    if isinstance(cell, float | int):
        return tag("td", number(cell), class_="number")
    if heads_row:
        return tag("th", cell, scope="row")
    numeric = cell is None or (not isinstance(cell, Html) and _looks_numeric(cell))
    return tag("td", NOTHING if cell is None else cell, class_="number" if numeric else None)


def _looks_numeric(text: str) -> bool:
    return text == NOTHING or text[:1].isdigit() or text[:1] in "[-+\u2212\u00d7"


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items()) or NOTHING
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or NOTHING
    return NOTHING if value is None else str(value)
