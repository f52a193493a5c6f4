"""InstantRT's lean runtime: a bundle in, pictures of a person out, without torch or diffusers."""

from instantrt.bundle import Bundle
from instantrt.errors import (
    BundleError,
    CancelledError,
    CheckpointError,
    InstantRTError,
    MissingExtraError,
    NoFaceError,
    PhotoError,
    RequestError,
)
from instantrt.pipeline import InstantID, Prepared
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
    "PhotoError",
    "Prepared",
    "RequestError",
    "Timings",
]
