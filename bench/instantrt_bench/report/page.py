"""The whole page: headlines, every section or what is missing, machines; one file that fetches nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from instantrt_bench.regression.history import Kept
from instantrt_bench.report.fidelity import fidelity_section
from instantrt_bench.report.figures import (
    NOTHING,
    Cell,
    commit_text,
    definition_list,
    folded,
    interval,
    notice,
    number,
    section,
    ssim_text,
    table,
)
from instantrt_bench.report.gallery import gallery, gallery_cases
from instantrt_bench.report.identity import identity_section, signed, signed_interval
from instantrt_bench.report.latency import latency_sections
from instantrt_bench.report.markup import Html, breakable, join, tag
from instantrt_bench.report.trend import trend_section
from instantrt_bench.results.files import ResultFile

MOST_PICTURES = 12
TITLE = "InstantRT benchmark report"
MEASURED_BY = {kind: f"`instantrt bench {kind}`" for kind in ("latency", "fidelity", "identity")}


@dataclass(frozen=True)
class Source:
    """A result file and where it was read from; pictures lie beside it."""

    path: Path
    results: ResultFile


def page(sources: Sequence[Source], history: Sequence[Kept] | None = None, most_pictures: int = MOST_PICTURES) -> Html:
    """The report as one HTML document.

    Args:
        sources: result files, of any kinds and in any order.
        history: earlier results, oldest first; None if no history was named.
        most_pictures: cases in the gallery at most.
    """
    by_kind = {kind: [s for s in sources if s.results.kind == kind] for kind in (*MEASURED_BY, "micro")}
    both = [latency_sections(source.results) for source in by_kind["latency"]]
    sections = [
        ("latency", "Latency", [latency for latency, _ in both] or [_missing("latency")]),
        ("stages", "Where the time goes", [stages for _, stages in both] or [_missing("latency")]),
        ("trend", "Trend over commits", [_trend(history)]),
        ("fidelity", "Fidelity", _each(by_kind["fidelity"], fidelity_section) or [_missing("fidelity")]),
        ("identity", "Identity", _each(by_kind["identity"], identity_section) or [_missing("identity")]),
        ("gallery", "Pictures side by side", [_gallery(sources, most_pictures)]),
    ]
    if by_kind["micro"]:
        sections.append(("micro", "Small parts", _each(by_kind["micro"], _micro)))
    sections.append(("machine", "Machines and commands", _each(sources, _facts)))
    links = (tag("li", tag("a", title, href=f"#{name}")) for name, title, _ in sections)
    body = tag(
        "body",
        tag("header", tag("h1", TITLE), _origin(sources), tag("nav", tag("ul", *links), aria_label="contents")),
        tag("main", headlines(sources), *(section(name, title, *parts) for name, title, parts in sections)),
        tag("script", _script()),
    )
    return join(Html("<!doctype html>\n"), tag("html", _head(), body, lang="en"), "\n")


def headlines(sources: Sequence[Source]) -> Html:
    """The figures that matter most, what makes them doubtful, and which kinds are missing."""
    tiles = [tile for kind in MEASURED_BY for s in sources if s.results.kind == kind for tile in _tiles(s.results)]
    flags = dict.fromkeys(
        f"{flag} (latency)" for source in sources for flag in source.results.summary.get("flags") or ()
    )
    kinds = {source.results.kind for source in sources}
    absent = [
        notice(f"no {kind} results; {command} makes them") for kind, command in MEASURED_BY.items() if kind not in kinds
    ]
    return tag("div", tag("div", *tiles, class_="headlines"), *(notice(flag, "warning") for flag in flags), *absent)


def _tiles(results: ResultFile) -> Iterator[Html]:
    summary = results.summary
    if results.kind == "latency":
        for name, ratio in (summary.get("ratio_eager") or {}).items():
            confidence = f"{100 * ratio['confidence']:g} % interval {interval(ratio)}"
            detail = f"reference-eager / {name}, {confidence}, n = {ratio['samples']}; {ratio['scenario']}"
            yield _tile("Speed against the reference", f"{number(ratio['estimate'])}\u00d7", detail)
    if results.kind == "fidelity":
        compared = f"worst of {summary.get('cases_compared', 0)} pictures, verdict: {summary.get('verdict', 'none')}"
        yield _tile("Lowest PSNR", _with_unit(summary.get("worst_psnr_db"), "dB"), compared)
        yield _tile("Lowest SSIM", ssim_text(summary.get("worst_ssim")), compared)
    if results.kind == "identity":
        delta, judge = summary.get("identity_delta"), summary.get("identity_judge", "no judge")
        pairs = ((summary.get("judges") or {}).get(judge) or {}).get("pairs", 0)
        bounds = signed_interval(summary.get("identity_delta_interval"))
        verdict = summary.get("verdict", "none")
        detail = f"cosine, 95 % interval {bounds}, n = {pairs}, {judge}, verdict: {verdict}"
        yield _tile("Identity, runtime \u2212 reference", signed(delta), detail)


def _tile(what: str, figure: str, detail: str) -> Html:
    parts = (("what", what), ("figure", figure), ("detail", detail))
    return tag("div", *(tag("div", breakable(text), class_=css) for css, text in parts), class_="headline")


def _with_unit(value: float | None, unit: str) -> str:
    return NOTHING if value is None else f"{number(value)} {unit}"


def _missing(kind: str) -> Html:
    return notice(f"no {kind} results were given; {MEASURED_BY[kind]} makes them")


def _trend(history: Sequence[Kept] | None) -> Html:
    if history is None:
        return notice(
            "no history was named; `instantrt bench history FOLDER --add FILE` keeps results, --history shows them"
        )
    return trend_section(history)


def _gallery(sources: Sequence[Source], most: int) -> Html:
    by_file = [cases for source in sources if (cases := gallery_cases(source.path, source.results))]
    if not by_file:
        return notice("no pictures were kept; `instantrt bench fidelity` and `identity` keep theirs")
    return gallery(by_file, most)


def _each(sources: Sequence[Source], part: Callable[[ResultFile], Html]) -> list[Html]:
    return [part(source.results) for source in sources]


def _micro(results: ResultFile) -> Html:
    rows: list[list[Cell]] = []
    for scenario in results.scenarios:
        for system in scenario.systems.values():
            found = system.summary.get("latency_ms") or {}
            rows.append([scenario.id, f"{found.get('n', 0)}", *(found.get(key) for key in ("p50", "p90", "p99"))])
    origin = tag("p", tag("code", results.command, class_="command"), class_="origin")
    return join(table(("benchmark", "n", "p50 ms", "p90 ms", "p99 ms"), rows, "small parts"), origin)


def _facts(results: ResultFile) -> Html:
    facts = {
        "command": results.command,
        "created": results.created,
        "commit": commit_text(results.commit),
        "threads": results.threads,
        **results.machine,
    }
    more = {
        "versions": {name: version for name, version in results.versions.items() if version},
        "bundle": results.bundle,
        "options": results.options,
    }
    title = tag("h3", f"{results.kind.capitalize()}, {results.created}")
    details = folded("Versions, bundle and options", definition_list(more))
    return tag("div", title, definition_list(facts), details, class_="facts")


def _origin(sources: Sequence[Source]) -> Html:
    commits = dict.fromkeys(commit_text(source.results.commit) for source in sources)
    times = sorted(source.results.created for source in sources)
    span = " to ".join(dict.fromkeys((times[0], times[-1]))) if times else "no results"
    return tag("p", f"{span}, commit {' and '.join(commits) or NOTHING}", class_="origin")


def _head() -> Html:
    """No part of the page may load anything: the policy allows its own script and style and embedded pictures only."""
    digest = base64.b64encode(hashlib.sha256(_script().encode()).digest()).decode("ascii")
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", TITLE),
        tag("style", _asset("style.css")),
    )


def _script() -> Html:
    return _asset("zoom.js")


def _asset(name: str) -> Html:
    return Html((files("instantrt_bench.report") / name).read_text(encoding="utf-8"))
