"""Keeps the libraries below us quiet: nothing about the user is sent, and nothing of theirs is kept in the home folder.

Imported with the package, because these libraries read the variables when they are loaded. A variable that is set stays
as it is: who asks for it gets it. What no variable turns off is hidden while a library is imported. docs/privacy.md
says what each library would do otherwise.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

VARIABLES = {
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime 1.32: a device id, and an event store that is sent to its maker
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub: versions of everything installed, beside every download
}


def keep_quiet() -> None:
    """Set the variables that are not set yet."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)


@contextmanager
def hidden(module: str) -> Iterator[None]:
    """Inside, importing ``module`` fails as if it were not installed, so a library does without it."""
    before = {module: sys.modules[module]} if module in sys.modules else {}
    sys.modules[module] = None  # type: ignore[assignment]  # how the import system marks it
    try:
        yield
    finally:
        del sys.modules[module]
        sys.modules.update(before)
