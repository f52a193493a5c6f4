"""InstantRT's lean runtime: a bundle in, pictures of a person out, without torch or diffusers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from instantrt.quiet import keep_quiet

if TYPE_CHECKING:
    from instantrt.bundle import Bundle
    from instantrt.errors import (
        BundleError,
        CancelledError,
        CheckpointError,
        InstantRTError,
        MissingExtraError,
        NoFaceError,
        NotFiniteError,
        OutputError,
        PhotoError,
        PipelineError,
        RequestError,
    )
    from instantrt.pipeline import InstantID
    from instantrt.prepare import Prepared
    from instantrt.request import GenerateRequest
    from instantrt.result import GenerateResult, Timings

__all__ = [
    "Bundle",
    "BundleError",
    "CancelledError",
    "CheckpointError",
    "GenerateRequest",
    "GenerateResult",
    "InstantID",
    "InstantRTError",
    "MissingExtraError",
    "NoFaceError",
    "NotFiniteError",
    "OutputError",
    "PhotoError",
    "PipelineError",
    "Prepared",
    "RequestError",
    "Timings",
]

keep_quiet()

_MODULES = {
    "Bundle": "bundle",
    "InstantID": "pipeline",
    "Prepared": "prepare",
    "GenerateRequest": "request",
    "GenerateResult": "result",
    "Timings": "result",
}  # all other names are in errors


def __getattr__(name: str) -> object:
    """Import public names when they are first used: the command line's help should not wait for numpy and OpenCV."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return __all__
