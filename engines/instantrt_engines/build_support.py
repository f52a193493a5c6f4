"""What each flavour and version of TensorRT can build, in one table.

The rest of the package does not know which flavour it builds with. Where their modules come from, and what differs when
plans are run, is in ``instantrt.engine.flavours``.

| what                   | TensorRT 10            | TensorRT 11      | TensorRT-RTX 1.7                 |
|------------------------|------------------------|------------------|----------------------------------|
| a build needs a GPU    | yes                    | yes              | only for strip_weights           |
| a plan runs on         | the model of GPU that  | the same         | 8.0, 8.6, 8.9, 12.0 and later    |
|                        | it is built on         |                  |                                  |
|    or, when asked      | hardware_compatibility | the same         | compute (7.5 and 12.1 too)       |
|    ampere_plus         | 8.0 and later          | the same         | -                                |
|    same_compute_...    | all models of the same | the same         | -                                |
|                        | compute capability     |                  |                                  |
| strong typing          | by STRONGLY_TYPED      | always           | by STRONGLY_TYPED                |
| precision flags        | exist, not used        | removed          | do not exist                     |
| device_memory_size     | exists, not used       | removed, use _v2 | only _v2                         |
| plan to a stream       | since 10.13            | yes              | yes                              |
| ONNX Attention         | if it has IAttention   | yes              | yes, with two exceptions         |
|    of a shared query   | yes                    | yes              | no: it crashes                   |
| fp32 matrix products   | yes                    | yes              | not for 7.5                      |
| fp32_attention         | no                     | since 11.3       | no                               |
| TF32 (on by default)   | off                    | off              | off                              |
| timing cache           | yes                    | yes              | no: it would need a GPU          |
| hardware_compatibility | yes                    | yes              | no                               |
| version_compatible     | yes                    | yes              | no: libnvinfer_lean is missing   |

TF32 would leave 11 bits of the digits of fp32 products, fp16's precision, in networks that are fp32 for their digits.
fp16 networks have no fp32 products.

The datacenter columns come from the vendor's documentation and type stubs; only the last one has run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from instantrt.engine.flavours import FLAVOURS, Flavour, numbers
from instantrt.errors import DeviceError, MissingExtraError, WheelError
from instantrt.plan import Option, TunedFor
from instantrt_engines.options import BuildOptionError, BuildOptions
from instantrt_engines.tensorrt_api import TensorRT

if TYPE_CHECKING:
    import tensorrt as trt

    from instantrt.device.properties import GpuProperties

COMMON_OPTIONS = frozenset({"optimization_level", "tiling_level", "aux_streams", "strip_weights", "weight_streaming"})
OPTION_FLAGS = {
    "strip_weights": ("STRIP_PLAN", "REFIT_IDENTICAL"),  # plain REFIT may drop a bias (TensorRT 11.3 release notes)
    "weight_streaming": ("WEIGHT_STREAMING",),
    "version_compatible": ("VERSION_COMPATIBLE",),
}
FLAGS_OFF = ("TF32",)  # that TensorRT sets by default
TILING_LEVELS = {"none": "NONE", "fast": "FAST", "moderate": "MODERATE", "full": "FULL"}
HARDWARE_LEVELS = {"ampere_plus": "AMPERE_PLUS", "same_compute_capability": "SAME_COMPUTE_CAPABILITY"}


@dataclass(frozen=True)
class BuildSupport:
    """What a flavour of TensorRT can build.

    Args:
        flavour: the flavour.
        options: names of the options of :class:`BuildOptions` that it has.
        default_compute: what plans run on unless asked otherwise; None: the GPU that they are built on.
        capabilities: compute capabilities that ``compute`` may name, with TensorRT's names for them.
        no_fp32_products: those of them for which it cannot compile fp32 matrix products.
        since: the version from which on it has an option, for those that older ones lack.
        on_gpu: the options that it has only on a machine with a GPU.
        attentions_share_a_query: whether it takes several ``Attention`` operators of one query, as face attention has.
    """

    flavour: Flavour
    options: frozenset[str]
    default_compute: tuple[str, ...] | None
    capabilities: dict[str, str]
    no_fp32_products: frozenset[str] = frozenset()
    since: Mapping[str, str] = field(default_factory=dict)
    on_gpu: frozenset[str] = frozenset()
    attentions_share_a_query: bool = True

    @property
    def product(self) -> str:
        """The flavour's name in messages."""
        return self.flavour.product

    def load(self) -> TensorRT:
        """The flavour's interface.

        Raises:
            MissingExtraError: its wheels are not installed.
            WheelError: they do not work together, or are too old.
        """
        module = self.flavour.load("build")
        try:
            return TensorRT.of(module)
        except AttributeError as error:
            raise WheelError(
                f"{self.product} {getattr(module, '__version__', '')} lacks what building needs",
                found=str(error),
                hint=f'pip install --upgrade "instantrt[{self.flavour.extra_for("build")}]"',
            ) from error

    def check(self, options: BuildOptions) -> None:
        """Raise :class:`BuildOptionError` for an option that this flavour does not have."""
        lacking = [name for name in options.asked if name not in self.options]
        if lacking:
            raise BuildOptionError(
                f"{self.product} has no option {', '.join(lacking)}",
                found=", ".join(f"{name}={getattr(options, name)}" for name in lacking),
                hint=f"it has: {', '.join(sorted(self.options))}",
            )
        unknown = [c for c in options.compute if c not in self.capabilities]
        if unknown:
            raise BuildOptionError(
                f"{self.product} cannot build for compute capability {', '.join(unknown)}",
                found=" ".join(options.compute),
                hint=f"it knows: {', '.join(self.capabilities)}",
            )
        if options.tiling_level is not None and options.tiling_level not in TILING_LEVELS:
            raise BuildOptionError(
                "unknown tiling level", found=repr(options.tiling_level), hint=f"it knows: {', '.join(TILING_LEVELS)}"
            )
        level = options.hardware_compatibility
        if level is not None and level not in HARDWARE_LEVELS:
            raise BuildOptionError(
                "unknown hardware compatibility", found=repr(level), hint=f"it knows: {', '.join(HARDWARE_LEVELS)}"
            )

    def check_version(self, options: BuildOptions, version: str) -> None:
        """Raise :class:`BuildOptionError` for an option that the installed version is too old for."""
        for name in options.asked:
            if numbers(version) < numbers(self.since.get(name, "0")):
                raise BuildOptionError(
                    f"{self.product} has the option {name} from version {self.since[name]} on",
                    found=f"version {version}",
                    hint=f"build without it, or {self.flavour.upgrade}",
                )

    def compute(self, options: BuildOptions) -> tuple[str, ...]:
        """The GPU compute capabilities that a plan with these options runs on.

        Raises:
            DeviceError: that is the GPU of this machine, and there is none.
        """
        if options.compute:
            return tuple(sorted(options.compute, key=numbers))
        if options.hardware_compatibility == "ampere_plus":
            return ("8.0+",)
        return self.default_compute or (self._gpu_here().compute_capability,)

    def tuned_for(self, options: BuildOptions) -> TunedFor | None:
        """The only model of GPU that a plan with these options runs on; None if ``compute`` says it all.

        Raises:
            DeviceError: that is the GPU of this machine, and there is none.
        """
        portable = self.default_compute is not None or options.hardware_compatibility is not None
        return None if portable else TunedFor.of(self._gpu_here())

    def flags(self, options: BuildOptions) -> tuple[str, ...]:
        """The builder flags that are on in a plan with these options; all others are off."""
        capture = () if options.weight_streaming else self.flavour.capture_flags
        return (*capture, *(flag for name in options.asked for flag in OPTION_FLAGS.get(name, ())))

    def identity(self, options: BuildOptions) -> dict[str, Option]:
        """What of the options belongs to a plan's identity: their names as users know them, and the builder's flags."""
        return {**options.identity, "flags": " ".join(sorted(self.flags(options)))}

    def configure(self, api: TensorRT, config: trt.IBuilderConfig, options: BuildOptions) -> None:
        """Put the options into a builder's configuration."""
        for flag in FLAGS_OFF:
            config.clear_flag(getattr(api.BuilderFlag, flag))
        for flag in self.flags(options):
            config.set_flag(getattr(api.BuilderFlag, flag))
        if options.optimization_level is not None:
            config.builder_optimization_level = options.optimization_level
        if options.tiling_level is not None:
            config.tiling_optimization_level = getattr(
                api.module.TilingOptimizationLevel, TILING_LEVELS[options.tiling_level]
            )
        if options.aux_streams is not None:
            config.max_aux_streams = options.aux_streams
        if options.hardware_compatibility is not None:
            level = HARDWARE_LEVELS[options.hardware_compatibility]
            config.hardware_compatibility_level = getattr(api.HardwareCompatibilityLevel, level)
        if options.compute:
            self._set_compute(api, config, self.compute(options))

    def _gpu_here(self) -> GpuProperties:
        try:
            from instantrt.device.properties import GpuProperties, open_gpu

            return GpuProperties.of(open_gpu(0))
        except (DeviceError, MissingExtraError) as error:
            raise DeviceError(
                f"{self.product} builds plans only on the GPU that they are for, and none can be used here",
                found=error.found,
                hint=f"{error.hint}; or build with --target tensorrt-rtx, which needs no GPU",
            ) from error

    def _set_compute(self, api: TensorRT, config: trt.IBuilderConfig, compute: tuple[str, ...]) -> None:
        # Only TensorRT-RTX has these, so the datacenter stubs do not.
        config.num_compute_capabilities = len(compute)  # type: ignore[attr-defined]
        for index, capability in enumerate(compute):
            member = getattr(api.module.ComputeCapability, self.capabilities[capability])
            config.set_compute_capability(member, index)  # type: ignore[attr-defined]


def network_flags(api: TensorRT) -> int:
    """Flags for ``create_network``: strongly typed, so that one ONNX file means the same on every version."""
    return 1 << int(api.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def knows_attention(api: TensorRT) -> bool:
    """Whether its parser takes ONNX's ``Attention``: it does since it has a layer for it."""
    return hasattr(api.module, "IAttention")


BUILD_SUPPORT = {
    support.flavour.target: support
    for support in (
        BuildSupport(
            flavour=FLAVOURS["tensorrt"],
            options=COMMON_OPTIONS | {"hardware_compatibility", "version_compatible", "timing_cache", "fp32_attention"},
            default_compute=None,
            capabilities={},
            since={"fp32_attention": "11.3"},
        ),
        BuildSupport(
            flavour=FLAVOURS["tensorrt-rtx"],
            options=COMMON_OPTIONS | {"compute"},
            default_compute=("8.0", "8.6", "8.9", "12.0+"),
            on_gpu=frozenset({"strip_weights"}),
            attentions_share_a_query=False,  # 1.7.1 crashes
            capabilities={c: f"SM{c.replace('.', '')}" for c in ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")},
            no_fp32_products=frozenset({"7.5"}),
        ),
    )
}
