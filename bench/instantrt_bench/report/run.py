"""`instantrt bench report`: result files and a history as one HTML page."""

from __future__ import annotations

import sys

from instantrt.cli.command import ExitStatus
from instantrt.errors import RequestError
from instantrt_bench.regression.history import read_history
from instantrt_bench.report.command import ReportOptions
from instantrt_bench.report.page import Source, page
from instantrt_bench.results.files import ResultError
from instantrt_bench.results.micro import read_any_results


def run_report(options: ReportOptions) -> ExitStatus:
    """Write the page.

    Raises:
        RequestError: neither results nor a history were named.
        ResultError: a file cannot be read, or the page not be written.
    """
    if not options.results and options.history is None:
        raise RequestError("a report needs results", hint="name result files, or --history FOLDER")
    sources = [Source(path, read_any_results(path)) for path in options.results]
    history = None if options.history is None else read_history(options.history)
    text = page(sources, history, options.pictures)
    try:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResultError(f"the report cannot be written to {options.out}", found=error.strerror) from error
    sys.stdout.write(f"{options.out}\n")
    return ExitStatus.DONE
