"""What differs between the flavours and versions of TensorRT. All of it is in this file; the rest of the package does
not know which flavour it builds with.

| what                   | TensorRT 10            | TensorRT 11      | TensorRT-RTX 1.7                 |
|------------------------|------------------------|------------------|----------------------------------|
| Python module          | tensorrt               | tensorrt         | tensorrt_rtx_bindings            |
| libraries come from    | the module             | the module       | vendor's or ONNX Runtime's wheel |
| a build needs a GPU    | yes                    | yes              | only for strip_weights           |
| a plan runs on         | the GPU of the build   | the same         | 8.0, 8.6, 8.9, 12.0 and later    |
|    or, when asked      | hardware_compatibility | the same         | compute (7.5 and 12.1 too)       |
| strong typing          | by STRONGLY_TYPED      | always           | by STRONGLY_TYPED                |
| precision flags        | exist, not used        | removed          | do not exist                     |
| device_memory_size     | exists, not used       | removed, use _v2 | only _v2                         |
| capture in a graph     | always                 | always           | with REQUIRE_USER_ALLOCATION     |
| plan to a stream       | since 10.13            | yes              | yes                              |
| ONNX Attention         | if it has IAttention   | yes              | yes, with two exceptions         |
| timing cache           | yes                    | yes              | no: it would need a GPU          |
| hardware_compatibility | yes                    | yes              | no                               |
| version_compatible     | yes                    | yes              | no: libnvinfer_lean is missing   |

The datacenter columns come from the vendor's documentation and type stubs; only the last one has run here.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from instantrt.errors import InstantRTError, MissingExtraError
from instantrt.plan import CAPTURE_FLAGS, Option
from instantrt_engines.options import BuildOptionError, BuildOptions
from instantrt_engines.tensorrt_api import TensorRT

if TYPE_CHECKING:
    import tensorrt as trt

COMMON_OPTIONS = frozenset({"optimization_level", "aux_streams", "strip_weights", "weight_streaming"})
OPTION_FLAGS = {
    "strip_weights": ("STRIP_PLAN", "REFIT_IDENTICAL"),  # plain REFIT may drop a bias (TensorRT 11.3 release notes)
    "weight_streaming": ("WEIGHT_STREAMING",),
    "version_compatible": ("VERSION_COMPATIBLE",),
}
OPTION_EXCLUDES = {
    "weight_streaming": CAPTURE_FLAGS["tensorrt-rtx"],  # streaming allocates while executing: no capture, then
}
CU_MAJOR, CU_MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of cuda.h


class WheelError(InstantRTError):
    """The wheels of a flavour are installed but do not work together."""

    code = "wheels"


@dataclass(frozen=True)
class Flavour:
    """One kind of TensorRT.

    Args:
        target: its name on the command line and in a bundle's ``plans`` folder.
        product: its name in messages.
        extra: the extra of InstantRT that installs it.
        load_module: imports the Python module.
        options: names of the options of :class:`BuildOptions` that it has.
        default_compute: what plans run on unless asked otherwise; None: the GPU that they are built on.
        capabilities: compute capabilities that ``compute`` may name, with TensorRT's names for them.
        on_gpu: the options that it has only on a machine with a GPU.
        always: builder flags that every plan gets, unless an option of :data:`OPTION_EXCLUDES` forbids them.
    """

    target: str
    product: str
    extra: str
    load_module: Callable[[], ModuleType]
    options: frozenset[str]
    default_compute: tuple[str, ...] | None
    capabilities: dict[str, str]
    on_gpu: frozenset[str] = frozenset()
    always: tuple[str, ...] = ()

    def load(self) -> TensorRT:
        """The flavour's interface.

        Raises:
            MissingExtraError: its wheels are not installed.
            WheelError: they do not work together, or are too old.
        """
        try:
            module = self.load_module()
        except ImportError as error:
            raise MissingExtraError(f"Building {self.target} plans", self.extra, str(error)) from error
        try:
            return TensorRT.of(module)
        except AttributeError as error:
            raise WheelError(
                f"{self.product} {getattr(module, '__version__', '')} lacks what building needs",
                found=str(error),
                hint=f'pip install --upgrade "instantrt[{self.extra}]"',
            ) from error

    def check(self, options: BuildOptions) -> None:
        """Raise :class:`BuildOptionError` for an option that this flavour does not have."""
        lacking = [name for name in options.asked if name not in self.options]
        if lacking:
            raise BuildOptionError(
                f"{self.product} has no option {', '.join(lacking)}",
                hint=f"it has: {', '.join(sorted(self.options))}",
            )
        unknown = [c for c in options.compute if c not in self.capabilities]
        if unknown:
            raise BuildOptionError(
                f"{self.product} cannot build for compute capability {', '.join(unknown)}",
                hint=f"it knows: {', '.join(self.capabilities)}",
            )
        level = options.hardware_compatibility
        if level is not None and level not in HARDWARE_LEVELS:
            raise BuildOptionError(
                f"unknown hardware compatibility {level!r}", hint=f"it knows: {', '.join(HARDWARE_LEVELS)}"
            )

    def compute(self, options: BuildOptions) -> tuple[str, ...]:
        """The GPU compute capabilities that a plan with these options runs on."""
        if options.compute:
            return tuple(sorted(options.compute, key=lambda c: tuple(int(part) for part in c.split("."))))
        if options.hardware_compatibility == "ampere_plus":
            return ("8.0+",)
        return self.default_compute or (gpu_compute_capability(self.product),)

    def flags(self, options: BuildOptions) -> tuple[str, ...]:
        """The builder flags of a plan with these options."""
        excluded = {flag for name in options.asked for flag in OPTION_EXCLUDES.get(name, ())}
        asked = [flag for name in options.asked for flag in OPTION_FLAGS.get(name, ())]
        return (*(flag for flag in self.always if flag not in excluded), *asked)

    def identity(self, options: BuildOptions) -> dict[str, Option]:
        """What of the options belongs to a plan's identity: their names as users know them, and the builder's flags."""
        return {**options.identity, "flags": " ".join(sorted(self.flags(options)))}

    def configure(self, api: TensorRT, config: trt.IBuilderConfig, options: BuildOptions) -> None:
        """Put the options into a builder's configuration."""
        for flag in self.flags(options):
            config.set_flag(getattr(api.BuilderFlag, flag))
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.aux_streams is not None:
            config.max_aux_streams = options.aux_streams
        if options.hardware_compatibility is not None:
            level = HARDWARE_LEVELS[options.hardware_compatibility]
            config.hardware_compatibility_level = getattr(api.HardwareCompatibilityLevel, level)
        if options.compute:
            self._set_compute(api, config, self.compute(options))

    def _set_compute(self, api: TensorRT, config: trt.IBuilderConfig, compute: tuple[str, ...]) -> None:
        # Only TensorRT-RTX has these, so the datacenter stubs do not.
        config.num_compute_capabilities = len(compute)  # type: ignore[attr-defined]
        for index, capability in enumerate(compute):
            member = getattr(api.module.ComputeCapability, self.capabilities[capability])
            config.set_compute_capability(member, index)  # type: ignore[attr-defined]


HARDWARE_LEVELS = {"ampere_plus": "AMPERE_PLUS", "same_compute_capability": "SAME_COMPUTE_CAPABILITY"}


def network_flags(api: TensorRT) -> int:
    """Flags for ``create_network``: strongly typed, so that one ONNX file means the same on every version."""
    return 1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def knows_attention(api: TensorRT) -> bool:
    """Whether its parser takes ONNX's ``Attention``: it does since it has a layer for it."""
    return hasattr(api.module, "IAttention")


def gpu_compute_capability(product: str) -> str:
    """The compute capability of the first GPU, from the driver.

    Raises:
        WheelError: there is no driver or no GPU.
    """
    major, minor = ctypes.c_int(), ctypes.c_int()
    device = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
        status = driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0)
        status = status or driver.cuDeviceGetAttribute(ctypes.byref(major), CU_MAJOR, device)
        status = status or driver.cuDeviceGetAttribute(ctypes.byref(minor), CU_MINOR, device)
        found = f"CUDA error {status}"
    except OSError as error:
        status, found = 1, str(error)
    if status:
        raise WheelError(
            f"{product} builds plans only on the GPU that they are for, and there is none here",
            found=found,
            hint="build on the machine that will run them, or build with --target tensorrt-rtx, which needs no GPU",
        )
    return f"{major.value}.{minor.value}"


def load_datacenter() -> ModuleType:
    """The vendor's ``tensorrt`` module."""
    return _with_builder(importlib.import_module("tensorrt"))


def load_rtx() -> ModuleType:
    """The bindings of TensorRT-RTX, after the libraries that they need.

    The libraries come with the vendor's ``tensorrt_rtx_libs`` or with ONNX Runtime's TensorRT-RTX wheel. The latter
    must be imported first: it makes the libraries known to the dynamic linker.
    """
    if importlib.util.find_spec("tensorrt_rtx_libs") is None:
        importlib.import_module("onnxruntime_ep_nv_tensorrt_rtx")
    library = rtx_library_version()
    try:
        module = _with_builder(importlib.import_module("tensorrt_rtx_bindings"))
    except ModuleNotFoundError:
        raise
    except ImportError as error:
        raise mismatch("unknown", library) from error
    if module.__version__ != library:
        raise mismatch(module.__version__, library)
    return module


def rtx_library_version() -> str:
    """The version that the loaded TensorRT-RTX library itself reports, e.g. ``"1.7.1.116"``."""
    try:
        library = ctypes.CDLL("libtensorrt_rtx.so.1")
    except OSError as error:
        raise ImportError(str(error)) from error
    parts = ("Major", "Minor", "Patch", "Build")
    return ".".join(str(getattr(library, f"getInferLib{part}Version")()) for part in parts)


def mismatch(bindings: str, library: str) -> WheelError:
    """The error for bindings and libraries of different versions."""
    return WheelError(
        "the installed TensorRT-RTX wheels do not belong together",
        found=f"bindings {bindings}, library {library}",
        hint='pip install --force-reinstall "instantrt[rtx]"',
    )


def _with_builder(module: ModuleType) -> ModuleType:
    """Refuses a folder that merely has the module's name: Python imports those as empty namespace packages."""
    if not hasattr(module, "Builder"):
        raise ImportError(f"{module.__name__} has no Builder; it is not an installed TensorRT")
    return module


FLAVOURS = {
    flavour.target: flavour
    for flavour in (
        Flavour(
            target="tensorrt",
            product="TensorRT",
            extra="tensorrt",
            load_module=load_datacenter,
            options=COMMON_OPTIONS | {"hardware_compatibility", "version_compatible", "timing_cache"},
            default_compute=None,
            capabilities={},
        ),
        Flavour(
            target="tensorrt-rtx",
            product="TensorRT-RTX",
            extra="rtx",
            load_module=load_rtx,
            options=COMMON_OPTIONS | {"compute"},
            default_compute=("8.0", "8.6", "8.9", "12.0+"),
            on_gpu=frozenset({"strip_weights"}),
            always=CAPTURE_FLAGS["tensorrt-rtx"],
            capabilities={c: f"SM{c.replace('.', '')}" for c in ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")},
        ),
    )
}
