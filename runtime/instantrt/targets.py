"""The targets by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from instantrt.bundle import Bundle
from instantrt.engine import Target, TargetOptions
from instantrt.engine.flavours import FLAVOURS, Flavour
from instantrt.engine.onnxruntime import OnnxRuntimeTarget
from instantrt.errors import MissingExtraError, RequestError

Opener = Callable[[Bundle, TargetOptions], Target]


def _open_tensorrt(flavour: Flavour, bundle: Bundle, options: TargetOptions) -> Target:
    try:
        from instantrt.engine.tensorrt import TensorRTTarget  # needs the CUDA packages, which other targets do not
    except MissingExtraError as error:
        raise MissingExtraError(f"Running on {flavour.target}", flavour.extra, str(error.found)) from error
    return TensorRTTarget(flavour, bundle, options)


TARGETS: dict[str, Opener] = {
    OnnxRuntimeTarget.name: OnnxRuntimeTarget,
    **{name: partial(_open_tensorrt, flavour) for name, flavour in FLAVOURS.items()},
}


def open_target(name: str, bundle: Bundle, options: TargetOptions) -> Target:
    """The target of that name on a bundle.

    Raises:
        RequestError: an unknown target, or an option that it lacks; the message lists the known ones.
    """
    if name not in TARGETS:
        raise RequestError("unknown target", found=repr(name), hint=f"use one of: {', '.join(TARGETS)}")
    return TARGETS[name](bundle, options)
