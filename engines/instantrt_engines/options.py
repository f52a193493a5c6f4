"""What a user can ask of the builder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from instantrt.errors import InstantRTError
from instantrt.plan import Option


class BuildOptionError(InstantRTError):
    """A build option is out of range, or the target does not have it."""

    code = "build_option"


@dataclass(frozen=True)
class BuildOptions:
    """Builder options; the defaults are TensorRT's own.

    Args:
        optimization_level: 0 (builds fastest) to 5 (runs fastest).
        tiling_level: how long to search for tiles that stay in the L2 cache: ``"none"``, ``"fast"``, ``"moderate"`` or
            ``"full"``.
        aux_streams: most auxiliary streams that one execution may use; 0 keeps memory and captured graphs small.
        strip_weights: leave the weights out of the plan; the runtime refits them from the ONNX file.
        weight_streaming: let the runtime keep part of the weights in host memory.
        hardware_compatibility: ``"ampere_plus"`` or ``"same_compute_capability"``.
        version_compatible: runs with later minor versions through the lean runtime.
        fp32_attention: fused attention of fp16 networks adds up in fp32, which TensorRT leaves in fp16 by default.
        compute: GPU compute capabilities to build for, e.g. ``("8.6", "12.0")``; the target's default if empty.
        timing_cache: file with kernel timings of earlier builds, read and updated.
    """

    optimization_level: int | None = None
    tiling_level: str | None = None
    aux_streams: int | None = None
    strip_weights: bool = False
    weight_streaming: bool = False
    hardware_compatibility: str | None = None
    version_compatible: bool = False
    fp32_attention: bool = False
    compute: tuple[str, ...] = ()
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise BuildOptionError(
                "the optimisation level goes from 0 to 5",
                found=str(self.optimization_level),
                hint="use 5 for plans that run fastest, 0 for builds that finish fastest",
            )
        if self.aux_streams is not None and self.aux_streams < 0:
            raise BuildOptionError(
                "the number of auxiliary streams is 0 or more",
                found=str(self.aux_streams),
                hint="use 0 for the least memory, or leave the choice to TensorRT",
            )

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the options that differ from the defaults."""
        return tuple(name for name, value in vars(self).items() if value != _DEFAULTS[name])

    @property
    def identity(self) -> dict[str, Option]:
        """What of the options changes a plan and is no ingredient of its own.

        ``compute`` is one; the timing cache holds measurements, not wishes.
        """
        return {name: vars(self)[name] for name in self.asked if name not in ("compute", "timing_cache")}


_DEFAULTS = {name: field.default for name, field in BuildOptions.__dataclass_fields__.items()}
