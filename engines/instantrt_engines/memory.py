"""How much device memory a bundle's plans need together, and which staging makes them fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from instantrt.contracts import NetworkContract, Precision, Stage, loop_buffer

Staging = Literal["resident", "staged", "streaming", "none"]

# CUDA context and TensorRT's own allocations, by experience with other programs; not measured by this project.
RESERVE_BYTES = 600 * 10**6


@dataclass(frozen=True)
class NetworkMemory:
    """One network's share.

    Args:
        stage: when it runs.
        weight_bytes: device memory of its weights.
        activation_bytes: device memory that one execution needs, shared with the other networks.
    """

    stage: Stage
    weight_bytes: int
    activation_bytes: int


@dataclass(frozen=True)
class DeviceMemory:
    """What all networks need together.

    Args:
        weights: bytes of weights by stage.
        arena_bytes: activation memory of the largest network; one arena serves all, they never run at once.
        buffer_bytes: inputs and outputs of all networks.
    """

    weights: Mapping[Stage, int]
    arena_bytes: int
    buffer_bytes: int

    @property
    def shared_bytes(self) -> int:
        """What is needed whichever weights are loaded."""
        return self.arena_bytes + self.buffer_bytes + RESERVE_BYTES

    @property
    def total_bytes(self) -> int:
        """With all weights loaded at once."""
        return self.shared_bytes + sum(self.weights.values())


@dataclass(frozen=True)
class Fit:
    """Whether and how it fits.

    Args:
        staging: ``"resident"``: all weights stay loaded. ``"staged"``: text and face networks are freed before the
            loop and the VAE is loaded after it. ``"streaming"``: staged, and the loop's weights are streamed from host
            memory within a budget. ``"none"``: it does not fit.
        needed_bytes: the most that is allocated at one time.
        weight_budget_bytes: with streaming, how much of the loop's weights stay on the device.
    """

    staging: Staging
    needed_bytes: int
    weight_budget_bytes: int | None = None


def device_memory(
    networks: Sequence[NetworkMemory],
    contracts: Iterable[NetworkContract],
    symbols: Mapping[str, int],
    precision: Precision,
) -> DeviceMemory:
    """Add up one bundle at these sizes."""
    weights: dict[Stage, int] = {"conditioning": 0, "denoise": 0, "decode": 0}
    for network in networks:
        weights[network.stage] += network.weight_bytes
    arena = max((network.activation_bytes for network in networks), default=0)
    return DeviceMemory(weights, arena, buffer_bytes(contracts, symbols, precision))


def buffer_bytes(contracts: Iterable[NetworkContract], symbols: Mapping[str, int], precision: Precision) -> int:
    """Inputs and outputs of all networks; the loop's networks share most of theirs by name."""
    sizes: dict[tuple[str, str], int] = {}
    for contract in contracts:
        for spec in (*contract.inputs, *contract.outputs):
            in_loop = contract.stage == "denoise"
            key = ("loop", loop_buffer(contract.name, spec.name)) if in_loop else (contract.name, spec.name)
            sizes[key] = spec.size_bytes(symbols, precision)
    return sum(sizes.values())


def fit_into(memory: DeviceMemory, vram_bytes: int, *, streamable: bool) -> Fit:
    """The least staging that fits.

    Args:
        memory: what is needed.
        vram_bytes: what there is.
        streamable: whether the loop's plans were built for weight streaming.
    """
    if memory.total_bytes <= vram_bytes:
        return Fit("resident", memory.total_bytes)
    staged = memory.shared_bytes + max(memory.weights.values())
    if staged <= vram_bytes:
        return Fit("staged", staged)
    others = memory.shared_bytes + max(memory.weights["conditioning"], memory.weights["decode"])
    budget = vram_bytes - memory.shared_bytes
    if streamable and others <= vram_bytes and budget > 0:
        return Fit("streaming", vram_bytes, budget)
    return Fit("none", staged)
