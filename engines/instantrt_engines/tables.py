"""Tables on the terminal."""

from __future__ import annotations

from rich.console import Console

TABLE_COLUMNS = 120


def wide_console() -> Console:
    """Standard output, wide enough for the tables when it is a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=TABLE_COLUMNS)


def megabytes(count: int | None) -> str:
    """``"12.3"``, or a dash if unknown."""
    return "-" if count is None else f"{count / 1e6:.1f}"
