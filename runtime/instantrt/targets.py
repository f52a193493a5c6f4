"""The targets by name."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from instantrt.bundle import Bundle
from instantrt.engine import ONNXRUNTIME_CUDA, Target, TargetOptions
from instantrt.engine.flavours import FLAVOURS, Flavour
from instantrt.engine.onnxruntime import CUDA_OPTIONS, OnnxRuntimeTarget
from instantrt.engine.openvino import OpenVinoTarget
from instantrt.errors import MissingExtraError, RequestError
from instantrt.plain import shown

Opener = Callable[[Bundle, TargetOptions], Target]


def _open_tensorrt(flavour: Flavour, bundle: Bundle, options: TargetOptions) -> Target:
    try:
        from instantrt.engine.tensorrt import TensorRTTarget  # needs the CUDA packages, which other targets do not
    except MissingExtraError as error:
        raise MissingExtraError(f"Running on {flavour.target}", flavour.extra, str(error.found)) from error
    return TensorRTTarget(flavour, bundle, options)


def _open_onnxruntime_cuda(bundle: Bundle, options: TargetOptions) -> Target:
    try:
        from instantrt.engine.onnxruntime_cuda import OnnxRuntimeCudaTarget
    except MissingExtraError as error:
        raise MissingExtraError(f"Running on {ONNXRUNTIME_CUDA}", "cuda", str(error.found)) from error
    return OnnxRuntimeCudaTarget(bundle, options)


TARGETS: dict[str, Opener] = {
    OnnxRuntimeTarget.name: OnnxRuntimeTarget,
    OpenVinoTarget.name: OpenVinoTarget,
    ONNXRUNTIME_CUDA: _open_onnxruntime_cuda,
    **{name: partial(_open_tensorrt, flavour) for name, flavour in FLAVOURS.items()},
}


OPTIONS: dict[str, tuple[str, ...]] = {
    OnnxRuntimeTarget.name: OnnxRuntimeTarget.options,
    OpenVinoTarget.name: OpenVinoTarget.options,
    ONNXRUNTIME_CUDA: CUDA_OPTIONS,
    **{name: flavour.options for name, flavour in FLAVOURS.items()},
}
"""The fields of :class:`TargetOptions` that each target has."""

CHECKS = {target.name: target.check for target in (OnnxRuntimeTarget, OpenVinoTarget)}
"""What looks at the options' values beyond that."""


def check_target(name: str, options: TargetOptions) -> None:
    """What can be wrong with a target's name and options, as far as it shows without a bundle.

    Raises:
        RequestError: an unknown target, or an option that it lacks; the message lists the known ones.
    """
    if not isinstance(name, str) or name not in TARGETS:
        raise RequestError("unknown target", found=shown(name), hint=f"use one of: {', '.join(TARGETS)}")
    if name in CHECKS:
        CHECKS[name](options)
    else:
        options.check(name, OPTIONS[name])


def open_target(name: str, bundle: Bundle, options: TargetOptions) -> Target:
    """The target of that name on a bundle.

    Raises:
        RequestError: as :func:`check_target`.
    """
    check_target(name, options)
    return TARGETS[name](bundle, options)
