"""The whole page from templates: one HTML file that fetches nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from instantrt_bench.regression.history import Kept
from instantrt_bench.report import fidelity, growth, identity, latency, text, trend
from instantrt_bench.report.gallery import choose_cases, gallery_cases
from instantrt_bench.results.files import KINDS, ResultFile
from instantrt_bench.results.systems import REFERENCES

MOST_PICTURES = 12
FILTERS = {
    "number": text.number,
    "signed": text.signed,
    "ssim": text.ssim_text,
    "interval": text.interval_text,
    "signed_interval": partial(text.interval_text, show=text.signed),
    "commit": text.commit_text,
    "machine": text.machine_text,
    "threads": text.threads_text,
    "breakable": text.breakable,
}


@dataclass(frozen=True)
class Source:
    """A result file and where it was read from; pictures lie beside it."""

    path: Path
    results: ResultFile


def page(sources: Sequence[Source], history: Sequence[Kept] | None = None, most_pictures: int = MOST_PICTURES) -> str:
    """The report as one HTML document.

    Args:
        sources: result files, of any kinds and in any order.
        history: earlier results, oldest first; None if no history was named.
        most_pictures: cases in the gallery at most.
    """
    results = [source.results for source in sources]
    by_file = [gallery_cases(source.path, source.results) for source in sources]
    created = sorted(one.created for one in results)
    script = _asset("zoom.js")
    return (
        _environment()
        .get_template("page.html")
        .render(
            style=_asset("style.css"),
            script=script,
            script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
            files=results,
            by_kind={kind: [one for one in results if one.kind == kind] for kind in KINDS},
            created=list(dict.fromkeys((created[0], created[-1]))) if created else [],
            commits=dict.fromkeys(text.commit_text(one.commit) for one in results),
            flags=dict.fromkeys(f"{flag} ({one.kind})" for one in results for flag in one.summary.get("flags") or ()),
            panels=None if history is None else trend.panels(history),
            references=REFERENCES,
            cases=choose_cases(by_file, most_pictures),
            cases_in_all=sum(map(len, by_file)),
            latency=latency,
            growth=growth,
            fidelity=fidelity,
            identity=identity,
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("instantrt_bench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    return environment


def _asset(name: str) -> Markup:
    """Not to be escaped: it is this package's own."""
    return Markup((files("instantrt_bench.report") / "templates" / name).read_text(encoding="utf-8"))  # noqa: S704
