"""An exported network against its torch module on fresh random inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import nn

from instantrt.contracts import STEP_ROWS, NetworkContract, Precision, TensorSpec
from instantrt.errors import InstantRTError

Array = npt.NDArray[Any]

ERROR_LIMITS: dict[Precision, float] = {"fp32": 1e-5, "fp16": 5e-3}
# Rounding to u8 turns a difference in the last bit into a whole grey level, at the few pixels that lie on an edge.
GREY_SHARE_LIMITS: dict[Precision, float] = {"fp32": 1e-3, "fp16": 0.2}


class ParityError(InstantRTError):
    """An exported network does not compute what its torch module computes."""

    code = "parity"


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
    precision: Precision
    outputs: Mapping[str, OutputParity]

    @property
    def error(self) -> float:
        """The largest relative error of the outputs."""
        return max(output.relative_error for output in self.outputs.values())

    @property
    def failures(self) -> dict[str, OutputParity]:
        """The outputs that are further off than the precision allows; NaN counts."""
        return {name: output for name, output in self.outputs.items() if not self._allowed(output)}

    def require(self) -> None:
        """Raises.

        Raises:
            ParityError: an output is further off than the precision allows.
        """
        if self.failures:
            raise ParityError(
                f"{self.network} does not compute what its torch module computes",
                found=", ".join(f"{name}: {output}" for name, output in self.failures.items()),
                hint="export in fp32 if the weights overflow in fp16",
            )

    def _allowed(self, output: OutputParity) -> bool:
        if output.grey_levels is None or output.grey_share is None:
            return output.relative_error <= ERROR_LIMITS[self.precision]
        return output.grey_levels <= 1 and output.grey_share <= GREY_SHARE_LIMITS[self.precision]


def parity_of(
    path: Path,
    module: nn.Module,
    contract: NetworkContract,
    precision: Precision,
    symbols: Sequence[Mapping[str, int]],
    vocabulary: int = 0,
) -> Parity:
    """Runs the file on ONNX Runtime's CPU provider and the module in torch, once for each set of symbols.

    Args:
        path: the exported network.
        module: the fp32 module, whatever the precision of the file.
        contract: the network's contract.
        precision: of the file.
        symbols: the sizes to try.
        vocabulary: how many token ids there are, for the text encoders.
    """
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng()
    worst: dict[str, OutputParity] = {}
    for sizes in symbols:
        inputs = random_inputs(contract, sizes, precision, rng, vocabulary)
        expected = torch_outputs(module, contract, inputs)
        actual = dict(zip(expected, session.run(list(expected), inputs), strict=True))
        for name, output in compare_outputs(actual, expected).items():
            worst[name] = _worse(worst.get(name), output)
    return Parity(contract.name, precision, worst)


def random_inputs(
    contract: NetworkContract,
    symbols: Mapping[str, int],
    precision: Precision,
    rng: np.random.Generator,
    vocabulary: int = 0,
) -> dict[str, Array]:
    """Inputs in the ranges that a request gives them."""
    return {spec.name: _random_input(spec, symbols, precision, rng, vocabulary) for spec in contract.inputs}


def _random_input(
    spec: TensorSpec, symbols: Mapping[str, int], precision: Precision, rng: np.random.Generator, vocabulary: int
) -> Array:
    shape, dtype = spec.resolve(symbols), spec.numpy_dtype(precision)
    if spec.name == "input_ids":
        return _random_texts(shape, vocabulary, rng).astype(dtype)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(0, {"step": STEP_ROWS}.get(spec.name, 256), shape, dtype=dtype)
    if spec.name.partition("_mask_")[1]:
        return rng.random(shape, dtype=np.float32).astype(dtype)
    ranges = {"step_table": (0.5, 1.5), "timesteps": (0, 999), "time_ids": (0, 1024)}
    if spec.name in ranges:
        return rng.uniform(*ranges[spec.name], shape).astype(dtype)
    return rng.standard_normal(shape, dtype=np.float32).astype(dtype)


def _random_texts(shape: tuple[int, ...], vocabulary: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Token ids [R, 77] that end somewhere after the first token, as texts do.

    CLIP's pooled output is that of the end token, its last id. Without one it would be that of the first token, which
    attends to nothing but itself, so that errors in the last layer's attention would not show.
    """
    ids = rng.integers(0, vocabulary - 1, shape)
    ids[np.arange(shape[0]), rng.integers(1, shape[1], shape[0])] = vocabulary - 1
    return ids


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
