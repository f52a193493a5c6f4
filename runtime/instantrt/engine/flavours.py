"""TensorRT and TensorRT-RTX: where their Python modules come from, on which GPUs they run, and what only one has.

Executing plans differs in few things: TensorRT-RTX finishes compilation on the device and can keep the kernels, and its
contexts are made from a configuration object. How the builders differ is in ``instantrt_engines.build_support``.

|                     | TensorRT 10, 11                  | TensorRT-RTX 1.7                                |
|---------------------|----------------------------------|-------------------------------------------------|
| Python module       | tensorrt                         | tensorrt_rtx_bindings                           |
| libraries come from | the module                       | the vendor's or ONNX Runtime's wheel            |
| compute capability  | 7.5 and later                    | 7.5, 8.0, 8.6, 8.9, 12.0 and later; not 9.0     |
| capture in a graph  | unless weights are streamed      | of plans built with REQUIRE_USER_ALLOCATION     |

Compute capabilities are those of the vendor's support matrices; TensorRT-RTX itself refuses others.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from instantrt.errors import DeviceError, MissingExtraError, WheelError

if TYPE_CHECKING:
    from instantrt.device.properties import GpuProperties

COMMON_OPTIONS = ("device", "weight_budget_bytes", "residency")

Use = Literal["run", "build"]


@dataclass(frozen=True)
class Flavour:
    """One kind of TensorRT.

    Args:
        target: its name on the command line and in a bundle's ``plans`` folder.
        product: its name in messages.
        extra: the extra of InstantRT that installs it; building needs the extra ``build`` too.
        import_module: imports the Python module.
        oldest: the oldest version that has all that is used here.
        upgrade: how to get one that has.
        compute_capabilities: of the GPUs that it runs on, as :func:`covers` reads them.
        elsewhere: what to use on other GPUs.
        options: the fields of :class:`instantrt.engine.TargetOptions` that it has.
        finishes_on_device: plans are portable; kernels are compiled where they run, and can be kept.
        capture_flags: builder flags without which its plans cannot be captured in a graph: they forbid allocating while
            executing. Streaming weights allocates, so plans for that go without.
    """

    target: str
    product: str
    extra: str
    import_module: Callable[[], ModuleType]
    oldest: str
    upgrade: str
    compute_capabilities: tuple[str, ...]
    elsewhere: str
    options: tuple[str, ...]
    finishes_on_device: bool
    capture_flags: tuple[str, ...] = ()

    def load(self, use: Use = "run") -> ModuleType:
        """The flavour's Python module.

        Raises:
            MissingExtraError: its wheels are not installed; names the extra for this use.
            WheelError: they do not work together, or are too old.
        """
        try:
            module = self.import_module()
            # A folder that merely has the module's name is imported as an empty namespace package.
            if not hasattr(module, "ILogger"):
                raise ImportError(f"{module.__name__} has no ILogger; it is not an installed TensorRT")
        except ImportError as error:
            doing = f"Running on {self.target}" if use == "run" else f"Building {self.target} plans"
            raise MissingExtraError(doing, self.extra_for(use), str(error)) from error
        if numbers(module.__version__) < numbers(self.oldest):
            raise WheelError(
                f"this {self.product} is too old",
                found=f"version {module.__version__}, needed is {self.oldest} or later",
                hint=self.upgrade,
            )
        return module

    def refusal(self, gpu: GpuProperties) -> DeviceError | None:
        """None if it runs on this kind of GPU, whatever a plan was built for; else the error that says so.

        It names the GPU, its compute capability, and what to use there.
        """
        if covers(self.compute_capabilities, gpu.compute_capability):
            return None
        return DeviceError(
            f"{self.product} does not run on this GPU",
            found=f"GPU {gpu.ordinal}, {gpu.name}, of compute capability {gpu.compute_capability}; it runs on "
            f"{', '.join(self.compute_capabilities)}",
            hint=self.elsewhere,
        )

    def extra_for(self, use: Use) -> str:
        """What ``pip install "instantrt[...]"`` takes for this use."""
        return self.extra if use == "run" else f"build,{self.extra}"


def covers(entries: Iterable[str], capability: str) -> bool:
    """Whether one of the entries is this compute capability: ``"8.6"`` is that one, ``"12.0+"`` that and later ones."""
    return any(
        numbers(entry.removesuffix("+")) <= numbers(capability) if entry.endswith("+") else entry == capability
        for entry in entries
    )


def numbers(version: str) -> tuple[int, ...]:
    """``"10.13.0"`` as (10, 13, 0), which compares as versions do."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def import_datacenter() -> ModuleType:
    """The vendor's ``tensorrt`` module."""
    return importlib.import_module("tensorrt")


def import_rtx() -> ModuleType:
    """The bindings of TensorRT-RTX, after the libraries that they need.

    The libraries come with the vendor's ``tensorrt_rtx_libs``, which the bindings import, or with ONNX Runtime's
    TensorRT-RTX wheel, which makes them known to the dynamic linker when it is imported.

    Raises:
        WheelError: the bindings are of another version than the libraries.
    """
    if importlib.util.find_spec("tensorrt_rtx_libs") is None:
        importlib.import_module("onnxruntime_ep_nv_tensorrt_rtx")
    try:
        module = importlib.import_module("tensorrt_rtx_bindings")
    except ModuleNotFoundError:
        raise
    except ImportError as error:
        raise _mismatch("unknown", rtx_library_version()) from error
    library = rtx_library_version()
    bindings = getattr(module, "__version__", library)  # an empty folder has none, and is found out in Flavour.load
    if bindings != library:
        raise _mismatch(bindings, library)
    return module


def rtx_library_version() -> str:
    """The version that the loaded TensorRT-RTX library itself reports, e.g. ``"1.7.1.116"``."""
    try:
        library = ctypes.CDLL("libtensorrt_rtx.so.1")
    except OSError as error:
        raise ImportError(str(error)) from error
    parts = ("Major", "Minor", "Patch", "Build")
    return ".".join(str(getattr(library, f"getInferLib{part}Version")()) for part in parts)


def _mismatch(bindings: str, library: str) -> WheelError:
    return WheelError(
        "the installed TensorRT-RTX wheels do not belong together",
        found=f"bindings {bindings}, library {library}",
        hint='pip install --force-reinstall "instantrt[rtx]"',
    )


FLAVOURS = {
    flavour.target: flavour
    for flavour in (
        Flavour(
            target="tensorrt",
            product="TensorRT",
            extra="tensorrt",
            import_module=import_datacenter,
            oldest="10.13",
            upgrade='pip install --upgrade "instantrt[tensorrt]"; on a Jetson, JetPack 7 is the first that has one',
            compute_capabilities=("7.5+",),
            elsewhere="use a GPU of one of these, or use --target onnxruntime",
            options=COMMON_OPTIONS,
            finishes_on_device=False,
        ),
        Flavour(
            target="tensorrt-rtx",
            product="TensorRT-RTX",
            extra="rtx",
            import_module=import_rtx,
            oldest="1.7",
            upgrade='pip install --upgrade "instantrt[rtx]"',
            compute_capabilities=("7.5", "8.0", "8.6", "8.9", "12.0+"),
            elsewhere="use --target tensorrt; `instantrt build BUNDLE --target tensorrt` makes its plans on that GPU",
            options=(*COMMON_OPTIONS, "runtime_cache"),
            finishes_on_device=True,
            capture_flags=("REQUIRE_USER_ALLOCATION",),
        ),
    )
}
