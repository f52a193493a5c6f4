"""Every network as the runtime's target executes it, against its torch module on the same random inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch

from instantrt.bundle import Bundle
from instantrt.contracts import NetworkContract
from instantrt.engine import Target
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.faces.graphs import detector_graph, encoder_graph
from instantrt_export.networks.builders import BUILDERS, build_network
from instantrt_export.parity import ComputedIn, OutputParity, Parity, compare_outputs, torch_outputs
from instantrt_export.parity_inputs import random_inputs

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Compute = Callable[[Arrays], Arrays]

TIMESTEPS = 10  # that the time embedding is asked for at once: a short request's


@dataclass(frozen=True)
class NetworkErrors:
    """How far one network is from its torch module.

    Args:
        sizes: the contract symbols in numbers.
        draws: the parity of each draw of random inputs.
        against: what stands on the other side.
    """

    sizes: dict[str, int]
    draws: tuple[Parity, ...]
    against: str

    @property
    def error(self) -> float:
        """The largest relative error of any output in any draw."""
        return max(draw.error for draw in self.draws)

    @property
    def failures(self) -> dict[str, OutputParity]:
        """Outputs further off than the precision allows, in any draw."""
        return {name: output for draw in self.draws for name, output in draw.failures.items()}

    @property
    def samples(self) -> dict[str, list[float]]:
        """The relative error of every draw by output name."""
        return {name: [draw.outputs[name].relative_error for draw in self.draws] for name in self.draws[0].outputs}


def network_errors(
    bundle: Bundle,
    target: Target,
    checkpoint: Checkpoint,
    network: str,
    *,
    draws: int,
    rng: np.random.Generator,
    computed_in: ComputedIn,
) -> NetworkErrors:
    """Run one network ``draws`` times on the target and in torch.

    ``computed_in`` is what the target computes in, which sets how far off it may be.

    Face networks have no torch module; on the other side stands the checkpoint's own ONNX file on ONNX Runtime.

    Raises:
        BundleError, PlanError: the target cannot load it.
    """
    contract = bundle.contracts[network]
    sizes = _sizes(bundle, target, contract)
    vocabulary = _vocabulary(checkpoint, network)
    expected_of, against = _other_side(checkpoint, contract)
    parities = []
    for _ in range(draws):
        inputs = random_inputs(contract, sizes, bundle.precision, rng, vocabulary)
        ours = executed(target, contract, bundle, sizes, inputs)
        parities.append(Parity(network, computed_in, compare_outputs(ours, expected_of(inputs))))
    return NetworkErrors(sizes, tuple(parities), against)


def executed(
    target: Target, contract: NetworkContract, bundle: Bundle, sizes: Mapping[str, int], inputs: Arrays
) -> dict[str, Array]:
    """The network's outputs as the target computes them, loaded with the symbols that the runtime fixes."""
    device = target.device
    with ExitStack() as owned:
        engine = owned.enter_context(closing(target.load(contract.name, sizes if contract.stage == "denoise" else {})))
        buffers = {}
        for spec in (*contract.inputs, *contract.outputs):
            buffer = device.allocate(spec.resolve(sizes), spec.numpy_dtype(bundle.precision))
            buffers[spec.name] = owned.enter_context(closing(buffer))
            engine.bind(spec.name, buffer)
        for name, values in inputs.items():
            device.upload(np.asarray(values, buffers[name].dtype, order="C"), buffers[name])
        engine.warm_up(device.stream, capture=False)
        engine.enqueue(device.stream)
        names = [spec.name for spec in contract.outputs]
        return dict(zip(names, device.download_all([buffers[name] for name in names]), strict=True))


def _sizes(bundle: Bundle, target: Target, contract: NetworkContract) -> dict[str, int]:
    """Those of a guided request of the bundle's default size, in as few slots as the target has."""
    width, height = bundle.manifest.sizes.default
    fewest, most = bundle.manifest.slots
    sizes = {"G": bundle.manifest.guidance_batch[1], "H": height, "W": width, "R": 1, "T": TIMESTEPS, "n": 1}
    slots = (b for b in range(fewest, most + 1) if target.accepts(contract.name, _used(contract, sizes | {"B": b})))
    return _used(contract, sizes | {"B": next(slots, fewest)})


def _used(contract: NetworkContract, sizes: Mapping[str, int]) -> dict[str, int]:
    return {symbol: sizes[symbol] for symbol in contract.symbols}


def _other_side(checkpoint: Checkpoint, contract: NetworkContract) -> tuple[Compute, str]:
    if contract.name in BUILDERS:
        module = build_network(contract.name, checkpoint, torch.float32)
        return lambda inputs: torch_outputs(module, contract, inputs), "torch module, fp32"
    models, dims = checkpoint.face_models, checkpoint.dims
    graph = (
        detector_graph(models.detector, dims.detector, dims.detector_px)
        if contract.name == "face_detector"
        else encoder_graph(models.encoder, dims.encoder, dims.face_px, dims.face_embedding_width)
    )
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [spec.name for spec in contract.outputs]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True)), "checkpoint's ONNX file"


def _vocabulary(checkpoint: Checkpoint, network: str) -> int:
    """How many token ids a text encoder knows; 0 for other networks."""
    return int(checkpoint.components[network].config.vocab_size) if network.startswith("text_encoder") else 0
