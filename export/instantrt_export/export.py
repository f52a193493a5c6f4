"""A checkpoint's eleven networks to ONNX files, one at a time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import onnx_ir as ir
import torch

from instantrt.contracts import NetworkContract, Precision, network_contracts
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.faces.graphs import detector_graph, encoder_graph
from instantrt_export.networks.builders import build_network
from instantrt_export.onnx_export import onnx_from_module, save_checked
from instantrt_export.parity import Parity, parity_of
from instantrt_export.parity_inputs import RequestInputs, random_trials
from instantrt_export.shapes import ExportOptionError, ExportShapes
from instantrt_export.tokenizer_files import write_tokenizers

FACE_NETWORKS = ("face_detector", "face_encoder")
TORCH_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}

ExportProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ExportedNetwork:
    """One network on disk.

    Attributes:
        name: the network.
        path: its ONNX file.
        seconds: time to load, export, check and compare it.
        onnx_bytes: size of the file and of its external data.
        parity: how far it is from its torch module; None if that was not checked or there is no torch module.
    """

    name: str
    path: Path
    seconds: float
    onnx_bytes: int
    parity: Parity | None

    @property
    def parity_error(self) -> float | None:
        """The largest relative error of its outputs, if it was checked."""
        return None if self.parity is None else self.parity.error


def export_bundle(
    checkpoint: Checkpoint,
    out: Path,
    *,
    shapes: ExportShapes,
    precision: Precision = "fp32",
    only: Iterable[str] | None = None,
    check_parity: bool = True,
    vae_precision: Precision | None = None,
    usual_size: tuple[int, int] | None = None,
    progress: ExportProgress = lambda _name, _done, _total: None,
) -> list[ExportedNetwork]:
    """Writes ``out/onnx/NAME.onnx`` of each network and ``out``'s tokenizers; ``bundle.json`` is the caller's.

    One torch module is in memory at a time.

    Args:
        checkpoint: where the weights are.
        out: the bundle's folder.
        shapes: which sizes the graphs accept.
        precision: the network dtype; face networks stay fp32.
        only: names of the networks to export, all by default.
        check_parity: compare every network with its torch module in fp32, on random inputs and on such as a request
            gives it.
        vae_precision: of the VAE's decoder; ``precision`` by default.
        usual_size: width and height of most requests' pictures; by default the size that graphs are traced with.
        progress: called with (network, networks done, networks in all) before each network, and once after the last.

    Raises:
        ExportOptionError: ``only`` names an unknown network.
        ParityError: a network does not compute what its torch module does, or gives numbers that are not finite.
        OutputError: a file cannot be written.
    """
    names = chosen_networks(checkpoint, only)
    contracts = [contract for name, contract in network_contracts(checkpoint.dims).items() if name in names]
    width, height = usual_size or (shapes.example()["W"], shapes.example()["H"])
    requests = RequestInputs(checkpoint.scheduler_config, width, height) if check_parity else None
    exported = []
    for done, contract in enumerate(contracts):
        progress(contract.name, done, len(contracts))
        own = vae_precision or precision if contract.name == "vae_decoder" else precision
        exported.append(_export_network(checkpoint, contract, out / "onnx", shapes, own, requests))
        gc.collect()  # an exported program holds its module in reference cycles
    write_tokenizers(checkpoint, out)
    progress("", len(contracts), len(contracts))
    return exported


def chosen_networks(checkpoint: Checkpoint, only: Iterable[str] | None) -> list[str]:
    """The names of the networks to export, in the order of a request.

    Raises:
        ExportOptionError: ``only`` names an unknown network.
    """
    known = list(network_contracts(checkpoint.dims))
    names = known if only is None else list(only)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        found = ", ".join(unknown) or "none at all"
        raise ExportOptionError("unknown network", found=found, hint=f"choose from {', '.join(known)}")
    return [name for name in known if name in names]


def _export_network(
    checkpoint: Checkpoint,
    contract: NetworkContract,
    folder: Path,
    shapes: ExportShapes,
    precision: Precision,
    requests: RequestInputs | None,
) -> ExportedNetwork:
    start, path = time.perf_counter(), folder / f"{contract.name}.onnx"
    parity = None
    if contract.name in FACE_NETWORKS:
        save_checked(_face_graph(checkpoint, contract.name), path, contract, shapes, precision)
    else:
        module = build_network(contract.name, checkpoint, TORCH_DTYPES[precision])
        onnx_from_module(module, contract, shapes, precision, path)
        half = any(parameter.dtype == torch.float16 for parameter in module.parameters())
        if requests is not None:
            if precision != "fp32":
                del module
                gc.collect()
                module = build_network(contract.name, checkpoint, torch.float32)
            vocabulary = _vocabulary(checkpoint, contract.name)
            trials = chain(
                random_trials(contract, shapes.parity_sizes(), precision, vocabulary),
                [requests.inputs(contract, shapes.request_sizes(requests.size), precision, vocabulary)],
            )
            keep = partial(requests.keep, contract.name)
            parity = parity_of(path, module, contract, precision, trials, half=half, keep=keep)
            parity.require()
    onnx_bytes = sum(file.stat().st_size for file in (path, Path(f"{path}.data")) if file.is_file())
    return ExportedNetwork(contract.name, path, time.perf_counter() - start, onnx_bytes, parity)


def _face_graph(checkpoint: Checkpoint, name: str) -> ir.Model:
    models, dims = checkpoint.face_models, checkpoint.dims
    if name == "face_detector":
        return ir.from_proto(detector_graph(models.detector, dims.detector, dims.detector_px))
    return ir.from_proto(encoder_graph(models.encoder, dims.encoder, dims.face_px, dims.face_embedding_width))


def _vocabulary(checkpoint: Checkpoint, name: str) -> int:
    """How many token ids a text encoder knows; 0 for other networks."""
    return int(checkpoint.components[name].config.vocab_size) if name.startswith("text_encoder") else 0
