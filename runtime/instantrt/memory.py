"""How much device memory a bundle's plans need together, as the runtime keeps it, and whether that fits.

The runtime keeps the inputs and outputs of the latest shapes that were asked for: those of the loop for ``MAX_LOOPS``
shapes, those of every other network for ``MAX_SHAPES``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import product

from instantrt.contracts import NetworkContract, Precision, Stage, loop_buffer
from instantrt.denoise import MAX_LOOPS
from instantrt.network import MAX_SHAPES
from instantrt.plan import Extent, Plan, Profile
from instantrt.request import SIDE_MULTIPLE
from instantrt.residency import Residency

# CUDA context and TensorRT's own allocations, by experience with other programs; not measured by this project.
RESERVE_BYTES = 600 * 10**6

ONE_BY_ONE = {"B": 1, "R": 1, "n": 1}  # conditioning takes pictures, prompts and faces one by one
READ_IN_THE_LOOP = {"vae_decoder": "latents"}  # inputs that have no buffer of their own

Shape = dict[str, int]  # by contract symbol


@dataclass(frozen=True)
class NetworkMemory:
    """One network's share.

    Args:
        contract: the network's contract.
        profiles: what its plan accepts.
        weight_bytes: device memory of its weights.
        activation_bytes: device memory that one execution needs at most, shared with the other networks.
        streams_weights: built for weight streaming.
    """

    contract: NetworkContract
    profiles: tuple[Profile, ...]
    weight_bytes: int
    activation_bytes: int
    streams_weights: bool = False

    @classmethod
    def of(cls, plan: Plan, weight_bytes: int | None = None) -> NetworkMemory | None:
        """A plan's share as its builder reported it; None if it did not report activations.

        Args:
            plan: the plan.
            weight_bytes: of the weights where the builder did not say; None takes the plan's file.
        """
        record = plan.record
        if not record.activation_bytes:
            return None
        weights = record.weight_bytes
        if weights is None:
            weights = record.file.bytes if weight_bytes is None else weight_bytes
        streams = bool(record.identity.options.get("weight_streaming"))
        return cls(plan.contract, record.identity.profiles, weights, max(record.activation_bytes), streams)


@dataclass(frozen=True)
class DeviceMemory:
    """What all networks need together.

    Args:
        weights: bytes of weights by stage.
        activations: activation memory of the largest network by stage; its networks share it, they never run at once.
        one_shape_bytes: inputs and outputs kept when all requests have the same slots, guidance batch and size.
        kept_bytes: the most inputs and outputs kept when requests have all shapes that the plans accept.
        streamable: bytes of weights of each network that was built for weight streaming.
    """

    weights: Mapping[Stage, int]
    activations: Mapping[Stage, int]
    one_shape_bytes: int
    kept_bytes: int
    streamable: tuple[int, ...] = ()

    @property
    def arena_bytes(self) -> int:
        """Activation memory of the largest network."""
        return max(self.activations.values(), default=0)

    def needed_bytes(self, residency: Residency) -> int:
        """The most that is needed, whatever shapes are asked for; ``streaming`` with no streamable weight loaded."""
        return self._loaded_bytes(residency) + self.kept_bytes + RESERVE_BYTES

    def one_shape_needed_bytes(self, residency: Residency) -> int:
        """What requests of one shape need."""
        return self._loaded_bytes(residency) + self.one_shape_bytes + RESERVE_BYTES

    def has(self, residency: Residency) -> bool:
        """Whether the plans can be loaded so: weights are streamed only by plans that were built for it."""
        return residency != "streaming" or bool(self.streamable)

    def weight_budget_bytes(self, room_bytes: int) -> int | None:
        """The largest budget for each streamable network with which all fit into ``room_bytes``; None if none does.

        What TensorRT itself needs for streaming is known on the device only and not counted.
        """
        room = room_bytes - self.needed_bytes("streaming")
        return _budget(self.streamable, room) if self.streamable else None

    def _loaded_bytes(self, residency: Residency) -> int:
        """Weights and activations that are on the device at one time, at most."""
        if residency == "staged":
            return max((self.weights[stage] + self.activations[stage] for stage in self.weights), default=0)
        streamed = sum(self.streamable) if residency == "streaming" else 0
        return sum(self.weights.values()) - streamed + self.arena_bytes


def device_memory(networks: Sequence[NetworkMemory], shape: Mapping[str, int], precision: Precision) -> DeviceMemory:
    """Add up one bundle.

    Args:
        networks: all of it.
        shape: slots, guidance batch and size (``B``, ``G``, ``H``, ``W``) of the requests of one shape; empty if these
            are of no interest.
        precision: the bundle's network dtype.
    """
    weights: dict[Stage, int] = {"conditioning": 0, "denoise": 0, "decode": 0}
    activations = dict(weights)
    for network in networks:
        stage = network.contract.stage
        weights[stage] += network.weight_bytes
        activations[stage] = max(activations[stage], network.activation_bytes)
    return DeviceMemory(
        weights,
        activations,
        one_shape_bytes=kept_bytes(networks, precision, shape),
        kept_bytes=kept_bytes(networks, precision),
        streamable=tuple(network.weight_bytes for network in networks if network.streams_weights),
    )


def kept_bytes(networks: Sequence[NetworkMemory], precision: Precision, fixed: Mapping[str, int] | None = None) -> int:
    """The most inputs and outputs that the runtime keeps for requests that have the ``fixed`` symbols in common."""
    loop = [network for network in networks if network.contract.stage == "denoise"]
    contracts = [network.contract for network in loop]
    common = reduce(_common_profiles, (network.profiles for network in loop)) if loop else ()
    total = _largest(MAX_LOOPS, common, fixed or {}, partial(loop_bytes, contracts, precision))
    for network in networks:
        stage = network.contract.stage
        if stage != "denoise":
            known = {**(fixed or {}), **(ONE_BY_ONE if stage == "conditioning" else {})}
            total += _largest(MAX_SHAPES, network.profiles, known, partial(call_bytes, network.contract, precision))
    return total


def loop_bytes(contracts: Sequence[NetworkContract], precision: Precision, shape: Mapping[str, int]) -> int:
    """Inputs and outputs of the loop's networks, most of which they share."""
    sizes = {
        loop_buffer(contract.name, spec.name): spec.size_bytes(shape, precision)
        for contract in contracts
        for spec in (*contract.inputs, *contract.outputs)
    }
    return sum(sizes.values())


def call_bytes(contract: NetworkContract, precision: Precision, shape: Mapping[str, int]) -> int:
    """Inputs and outputs of one other network."""
    specs = (spec for spec in (*contract.inputs, *contract.outputs) if spec.name != READ_IN_THE_LOOP.get(contract.name))
    return sum(spec.size_bytes(shape, precision) for spec in specs)


def _budget(streamable: Sequence[int], room: int) -> int | None:
    """The largest budget for each with which all together take no more than ``room``; None if not even 0 does."""
    if room < 0:
        return None
    for index, weights in enumerate(sorted(streamable)):
        share = room // (len(streamable) - index)
        if share < weights:
            return share
        room -= weights
    return max(streamable)


def _largest(count: int, profiles: Sequence[Profile], fixed: Mapping[str, int], size: Callable[[Shape], int]) -> int:
    """The sum of the ``count`` largest shapes that the profiles accept."""
    shapes = {tuple(shape.items()) for profile in profiles for shape in _large_shapes(count, profile, fixed)}
    return sum(sorted((size(dict(shape)) for shape in shapes), reverse=True)[:count])


def _large_shapes(count: int, profile: Profile, fixed: Mapping[str, int]) -> Iterator[Shape]:
    """The shapes among which the ``count`` largest are: those with one of the ``count`` largest sizes on every axis."""
    axes = [list(_sizes(symbol, extent, fixed))[:count] for symbol, extent in profile.items()]
    return (dict(zip(profile, sizes, strict=True)) for sizes in product(*axes))


def _sizes(symbol: str, extent: Extent, fixed: Mapping[str, int]) -> Sequence[int]:
    """What a symbol can be, the largest first."""
    low, _, high = extent
    if symbol in fixed:
        return [fixed[symbol]] if low <= fixed[symbol] <= high else []
    return range(high, low - 1, -SIDE_MULTIPLE if symbol in "HW" else -1)


def _common_profiles(first: Sequence[Profile], second: Sequence[Profile]) -> tuple[Profile, ...]:
    """What both accept, of profiles over the same symbols."""
    common = []
    for a, b in product(first, second):
        extents = {s: (max(a[s][0], b[s][0]), a[s][1], min(a[s][2], b[s][2])) for s in a}
        if all(low <= high for low, _, high in extents.values()):
            common.append(extents)
    return tuple(common)
