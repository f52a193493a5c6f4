"""Arguments of `instantrt bench fidelity`."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "how far the runtime's networks, latents and pictures are from the reference's"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--out", type=Path)
