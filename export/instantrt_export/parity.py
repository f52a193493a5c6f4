"""An exported network against its torch module on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from instantrt.contracts import NetworkContract, Precision
from instantrt.errors import InstantRTError

Array = npt.NDArray[Any]

FP16_LARGEST = 65504.0
ComputedIn = Precision | Literal["bf16"]
"""What a network computes in: its bundle's precision, or what a target was told."""


class ParityError(InstantRTError):
    """An exported network does not compute what its torch module computes."""

    code = "parity"


@dataclass(frozen=True)
class ParityLimits:
    """How far off an output may be.

    Rounding to u8 turns a difference in the last bit into a whole grey level, at the few pixels that lie on an edge.

    Attributes:
        relative_error: of outputs that are not u8.
        grey_levels: of u8 outputs, at any value.
        grey_share: share of u8 values that may differ at all.
    """

    relative_error: float
    grey_levels: int
    grey_share: float


PARITY_LIMITS: dict[ComputedIn, ParityLimits] = {
    "fp32": ParityLimits(1e-5, 1, 1e-3),
    "fp16": ParityLimits(5e-3, 1, 0.2),
    "bf16": ParityLimits(4e-2, 16, 1.0),  # its rounding is eight times as coarse as that of fp16
}


@dataclass(frozen=True)
class OutputParity:
    """How far one output is from the torch module's.

    Attributes:
        relative_error: norm of the difference over norm of the torch output.
        grey_levels: largest difference of u8 outputs, else None.
        grey_share: share of u8 values that differ, else None.
    """

    relative_error: float
    grey_levels: int | None = None
    grey_share: float | None = None


@dataclass(frozen=True)
class Parity:
    """The parity of one network: its outputs by name, and what is allowed."""

    network: str
    computed_in: ComputedIn
    outputs: Mapping[str, OutputParity]

    @property
    def error(self) -> float:
        """The largest relative error of the outputs."""
        return max(output.relative_error for output in self.outputs.values())

    @property
    def failures(self) -> dict[str, OutputParity]:
        """The outputs that are further off than what it computes in allows; NaN counts."""
        return {name: output for name, output in self.outputs.items() if not self._allowed(output)}

    def require(self) -> None:
        """Raises.

        Raises:
            ParityError: an output is further off than that.
        """
        if self.failures:
            raise ParityError(
                f"{self.network} does not compute what its torch module computes",
                found=", ".join(f"{name}: {output}" for name, output in self.failures.items()),
                hint="export in fp32 if the weights overflow in fp16",
            )

    def _allowed(self, output: OutputParity) -> bool:
        limits = PARITY_LIMITS[self.computed_in]
        if output.grey_levels is None or output.grey_share is None:
            return output.relative_error <= limits.relative_error
        return output.grey_levels <= limits.grey_levels and output.grey_share <= limits.grey_share


def parity_of(
    path: Path,
    module: nn.Module,
    contract: NetworkContract,
    precision: Precision,
    trials: Iterable[Mapping[str, Array]],
    *,
    half: bool = False,
    keep: Callable[[Mapping[str, Array]], None] = lambda _outputs: None,
) -> Parity:
    """Runs the file on ONNX Runtime's CPU provider and the module in torch, once for each set of inputs.

    Args:
        path: the exported network.
        module: the fp32 module, whatever the precision of the file.
        contract: the network's contract.
        precision: of the file.
        trials: the inputs.
        half: whether the file computes in fp16, which holds numbers up to 65504. The CPU provider computes in fp32
            what it has no fp16 kernels for, and does not overflow where a GPU does: so the module's parts are measured.
        keep: called with each trial's outputs of the module.

    Raises:
        ParityError: outputs are not finite, or a part of the module gives numbers that fp16 does not hold.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst: dict[str, OutputParity] = {}
    for inputs in trials:
        with largest_outputs(module) as largest:
            expected = torch_outputs(module, contract, inputs)
        _require_range(contract.name, largest, FP16_LARGEST if half else np.inf)
        actual = dict(zip(expected, session.run(list(expected), dict(inputs)), strict=True))
        _require_finite(contract.name, actual)
        keep(expected)
        for name, output in compare_outputs(actual, expected).items():
            worst[name] = _worse(worst.get(name), output)
    return Parity(contract.name, precision, worst)


@contextmanager
def largest_outputs(module: nn.Module) -> Iterator[dict[str, float]]:
    """The largest absolute value that each part of a module gives meanwhile, by the part's name."""
    largest: dict[str, float] = {}

    def look(name: str, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.is_floating_point() and output.numel():
            low, high = (float(extreme) for extreme in torch.aminmax(output))
            largest[name] = float(np.maximum(largest.get(name, 0.0), np.maximum(-low, high)))  # keeps NaN

    parts = {name: part for name, part in module.named_modules() if name}
    hooks = [
        part.register_forward_hook(lambda _part, _inputs, output, name=name: look(name, output))
        for name, part in parts.items()
    ]
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()


def _require_range(network: str, largest: Mapping[str, float], limit: float) -> None:
    """The first part whose numbers are too large is where to look."""
    for part, value in largest.items():
        if not np.isfinite(value):
            hint = "its weights do not belong together: use another checkpoint"
            raise ParityError(f"{network} computes numbers that are not finite", found=f"{part}: {value}", hint=hint)
        if value > limit:
            found = f"{part} reaches {value:.6g}, fp16 holds numbers up to {limit:g}"
            raise ParityError(
                f"{network} computes numbers that are too large for fp16", found=found, hint=_hint(network)
            )


def _require_finite(network: str, outputs: Mapping[str, Array]) -> None:
    for name, values in outputs.items():
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            found = f"output {name}: {np.count_nonzero(~np.isfinite(values))} of {values.size}"
            raise ParityError(f"{network} gives numbers that are not finite", found=found, hint=_hint(network))


def _hint(network: str) -> str:
    if network != "vae_decoder":
        return "export with --precision fp32"
    return "set force_upcast to true in vae/config.json, or export with --vae-precision fp32"


def torch_outputs(module: nn.Module, contract: NetworkContract, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The module's outputs by name; inputs in half precision are given to it in fp32."""
    tensors = [torch.from_numpy(inputs[spec.name]) for spec in contract.inputs]
    with torch.inference_mode():
        outputs = module(*(t.float() if t.dtype == torch.float16 else t for t in tensors))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return {spec.name: output.numpy() for spec, output in zip(contract.outputs, outputs, strict=True)}


def compare_outputs(actual: Mapping[str, Array], expected: Mapping[str, Array]) -> dict[str, OutputParity]:
    """The parity of every expected output."""
    return {name: compare(actual[name], expected[name]) for name in expected}


def compare(actual: Array, expected: Array) -> OutputParity:
    """The parity of one array; relative to 1 where the expected array is zero."""
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {actual.shape} and {expected.shape}")
    difference = actual.astype(np.float64) - expected.astype(np.float64)
    error = float(np.linalg.norm(difference) / (np.linalg.norm(expected.astype(np.float64)) or 1.0))
    if expected.dtype != np.uint8:
        return OutputParity(error)
    return OutputParity(error, int(np.abs(difference).max()), float(np.mean(difference != 0)))


def _worse(one: OutputParity | None, other: OutputParity) -> OutputParity:
    if one is None:
        return other
    return OutputParity(
        float(np.maximum(one.relative_error, other.relative_error)),  # keeps NaN
        None if one.grey_levels is None or other.grey_levels is None else max(one.grey_levels, other.grey_levels),
        None if one.grey_share is None or other.grey_share is None else max(one.grey_share, other.grey_share),
    )
