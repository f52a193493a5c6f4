"""`instantrt bench report`: result files and a history as one HTML page."""

from __future__ import annotations

import argparse
import sys

from instantrt.errors import RequestError
from instantrt_bench.history import read_history
from instantrt_bench.micro import read_any_results
from instantrt_bench.report.page import Source, page
from instantrt_bench.results import ResultError


def run_report(args: argparse.Namespace) -> None:
    """Write the page.

    Raises:
        RequestError: neither results nor a history were named.
        ResultError: a file cannot be read, or the page not be written.
    """
    if not args.results and args.history is None:
        raise RequestError("a report needs results", hint="name result files, or --history FOLDER")
    sources = [Source(path, read_any_results(path)) for path in args.results]
    history = None if args.history is None else read_history(args.history)
    text = page(sources, history, args.pictures)
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ResultError(f"the report cannot be written to {args.out}", found=error.strerror) from error
    sys.stdout.write(f"{args.out}\n")
