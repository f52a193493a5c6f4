"""TensorRT and TensorRT-RTX as the runtime sees them: where their Python modules come from and what only one has.

Executing plans differs in few things: TensorRT-RTX finishes compilation on the device and can keep the kernels, and its
contexts are made from a configuration object. How the builders differ is in ``instantrt_engines.flavours``.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

from instantrt.errors import MissingExtraError

COMMON_OPTIONS = ("device", "weight_budget_bytes")


@dataclass(frozen=True)
class Flavour:
    """One kind of TensorRT.

    Args:
        target: its name on the command line and in a bundle's ``plans`` folder.
        extra: the extra of InstantRT that installs it.
        import_module: imports the Python module.
        options: the fields of :class:`instantrt.engine.TargetOptions` that it has.
        finishes_on_device: plans are portable; kernels are compiled where they run, and can be kept.
    """

    target: str
    extra: str
    import_module: Callable[[], ModuleType]
    options: tuple[str, ...]
    finishes_on_device: bool

    def load(self) -> ModuleType:
        """The flavour's Python module.

        Raises:
            MissingExtraError: its wheels are not installed.
        """
        try:
            module = self.import_module()
            # A folder that merely has the module's name is imported as an empty namespace package.
            if not hasattr(module, "Runtime"):
                raise ImportError(f"{module.__name__} has no Runtime; it is not an installed TensorRT")
        except ImportError as error:
            raise MissingExtraError(f"Running on {self.target}", self.extra, str(error)) from error
        return module


def import_datacenter() -> ModuleType:
    """The vendor's ``tensorrt`` module."""
    return importlib.import_module("tensorrt")


def import_rtx() -> ModuleType:
    """The bindings of TensorRT-RTX, after the libraries that they need.

    The libraries come with the vendor's ``tensorrt_rtx_libs`` or with ONNX Runtime's TensorRT-RTX wheel, which makes
    them known to the dynamic linker when it is imported.
    """
    if importlib.util.find_spec("tensorrt_rtx_libs") is None:
        importlib.import_module("onnxruntime_ep_nv_tensorrt_rtx")
    return importlib.import_module("tensorrt_rtx_bindings")


FLAVOURS = {
    flavour.target: flavour
    for flavour in (
        Flavour("tensorrt", "tensorrt", import_datacenter, COMMON_OPTIONS, finishes_on_device=False),
        Flavour("tensorrt-rtx", "rtx", import_rtx, (*COMMON_OPTIONS, "runtime_cache"), finishes_on_device=True),
    )
}
