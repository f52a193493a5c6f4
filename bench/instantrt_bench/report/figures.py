"""Numbers as text, and the frame around every figure and table of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from instantrt_bench.report.markup import Child, Html, breakable, join, tag
from instantrt_bench.results.files import ResultFile

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
        return f"{abs(value):g}" if value == 0 else f"{value:g}"
    if abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    if abs(value) < 1:
        return f"{value:.{digits}g}"
    before_point = math.floor(math.log10(abs(value))) + 1
    return f"{value:,.{max(0, digits - before_point)}f}"


def tick_text(value: float) -> str:
    """A round value without trailing zeros."""
    text = number(value, 6)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def ssim_text(value: float | None) -> str:
    """SSIM to five digits; what is not 1 is never rounded up to it."""
    if value is None:
        return NOTHING
    return "> 0.99999" if 0.999995 <= value < 1 else f"{value:.5f}"


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
    threads = {None: "", 1: ", 1 thread"}.get(results.threads, f", {results.threads} threads")
    return f"{device}{threads}"


def figure(title: str, body: Html, note: str, *sources: ResultFile) -> Html:
    """A titled figure with what it shows, on what it was measured and the command that made it."""
    origins = [
        tag("p", tag("code", source.command, class_="command"), f" on {machine_text(source)}", class_="origin")
        for source in sources
    ]
    caption = tag("figcaption", tag("p", note) if note else None, *origins)
    return tag("figure", tag("h3", breakable(title)), body, caption)


def table(header: Sequence[str], rows: Sequence[Sequence[Cell]], label: str) -> Html:
    """A table that scrolls sideways inside its own box; numbers stand flush right, the first column heads its row."""
    numeric = [index > 0 and all(_is_numeric(row[index]) for row in rows) for index in range(len(header))]
    classes = ["number" if one else None for one in numeric]
    columns = (tag("th", cell, scope="col", class_=css) for cell, css in zip(header, classes, strict=True))
    lines = (tag("tr", *map(_cell, row, classes, range(len(row)))) for row in rows)
    head, body = tag("thead", tag("tr", *columns)), tag("tbody", *lines)
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
    """Names and values; what has names of its own is a list inside."""
    return tag(
        "dl", *(join(tag("dt", name.replace("_", " ")), tag("dd", _fact(value))) for name, value in facts.items())
    )


def _cell(cell: Cell, css: str | None, column: int) -> Html:
    text = number(cell) if isinstance(cell, float | int) else NOTHING if cell is None else cell
    return tag("td", text, class_=css) if column else tag("th", text, scope="row")


def _is_numeric(cell: Cell) -> bool:
    """Numbers, nothing, and texts that begin as numbers and intervals do."""
    return (
        not isinstance(cell, str) or cell == NOTHING or cell[:1].isdigit() or cell[:1] in ("[", "-", "+", ">", "\u2212")
    )


def _fact(value: Any) -> str | Html:
    if isinstance(value, Mapping):
        return definition_list(value) if value else NOTHING
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or NOTHING
    return NOTHING if value is None else str(value)
