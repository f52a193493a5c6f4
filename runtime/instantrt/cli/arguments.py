"""Argument types and groups that several commands share."""

from __future__ import annotations

import argparse
import re

from instantrt.plain import shown


def parse_size(text: str) -> tuple[int, int]:
    """``"1024x768"`` as (width, height); for argparse."""
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not WIDTHxHEIGHT, e.g. 1024x1024")
    return int(match[1]), int(match[2])


def parse_seed(text: str) -> int:
    """A seed that gives the same picture every time; for argparse."""
    if not re.fullmatch(r"\d{1,18}", text):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a seed: a whole number from 0")
    return int(text)


def parse_positive(text: str) -> int:
    """A whole number from 1; for argparse."""
    if not re.fullmatch(r"\d{1,18}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a whole number from 1")
    return int(text)


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Declare ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
