"""`instantrt bench report`: result files and a history as one HTML page."""

from __future__ import annotations

import sys

from instantrt.atomic import replace_text
from instantrt.cli.command import ExitStatus
from instantrt_bench.regression.history import read_history
from instantrt_bench.report.arguments import ReportOptions
from instantrt_bench.report.page import Source, page
from instantrt_bench.results.micro import read_any_results


def run_report(options: ReportOptions) -> ExitStatus:
    """Write the page.

    Raises:
        ResultError: a file cannot be read.
        OutputError: the page cannot be written.
    """
    sources = [Source(path, read_any_results(path)) for path in options.results]
    history = None if options.history is None else read_history(options.history)
    text = page(sources, history, options.pictures)
    replace_text(options.out, text)
    sys.stdout.write(f"{options.out}\n")
    return ExitStatus.DONE
