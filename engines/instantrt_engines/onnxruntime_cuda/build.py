"""The networks of a bundle to graphs for ``onnxruntime-cuda``; they are kept and checked as plans are.

A graph takes every size that the bundle was exported for. Its large weights stay in the bundle's own file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import onnx

from instantrt.atomic import check_output, output_errors
from instantrt.bundle import Bundle, FileRecord
from instantrt.contracts import NetworkContract
from instantrt.engine import ONNXRUNTIME_CUDA
from instantrt.plan import Extent, PlanIdentity, Profile, onnx_digests, plan_path
from instantrt_engines.build import Building, BuildProgress, BuildRequest, BuildResult, chosen_networks
from instantrt_engines.builder import BuildError, Measured
from instantrt_engines.graph import load_graph
from instantrt_engines.onnxruntime_cuda.kernels import kernel_table, types_of
from instantrt_engines.onnxruntime_cuda.rewrite import rewrite_for_cuda
from instantrt_engines.options import BuildOptionError, BuildOptions
from instantrt_engines.profiles import FACES, PROMPTS, TIMESTEPS, ShapeOptions

COMPUTE = ("7.5+",)  # what CUDA 13 runs on, for which onnxruntime-gpu is built


def rewrite_graphs(bundle: Bundle, request: BuildRequest, progress: BuildProgress) -> Iterator[BuildResult]:
    """Rewrite what is missing or stale, one network after the other; each is in place before its result is given.

    Raises:
        BuildOptionError: an option of TensorRT's.
        BundleError: the bundle lacks a network that was asked for, or was altered.
        OutputError: graphs cannot be written there.
        BuildError: an operator of a network has no CUDA kernel.
    """
    if request.shapes != ShapeOptions() or request.options != BuildOptions():
        raise BuildOptionError(
            f"{ONNXRUNTIME_CUDA} has no options: its graphs take every size that the bundle was exported for",
            found="sizes or builder options of TensorRT",
            hint="leave them out; `instantrt export` decides which sizes there are",
        )
    contracts = [bundle.contracts[name] for name in chosen_networks(bundle, request.only)]
    for contract in contracts:
        check_output(plan_path(bundle.folder, ONNXRUNTIME_CUDA, contract.name))
    for contract in contracts:
        identity = PlanIdentity(
            network=contract.name,
            target=ONNXRUNTIME_CUDA,
            target_version=kernel_table().version,
            onnx=onnx_digests(bundle, contract.name),
            precision=bundle.precision,
            profiles=(all_sizes(contract, bundle),),
            compute=COMPUTE,
            tuned_for=None,
            options={},
        )
        yield Rewriting(bundle, request, contract, identity, progress).ensure()


class Rewriting(Building):
    """One network's graph, all of whose operators have CUDA kernels."""

    def make(self, partial: Path) -> Measured:
        """Rewrite the graph."""
        start, table = perf_counter(), kernel_table()
        model = load_graph(self.bundle.onnx(self.contract.name))
        rewritten = rewrite_for_cuda(model)
        if missing := sorted(set(table.missing(rewritten, types_of(model, rewritten)))):
            raise BuildError(
                f"{self.contract.name} has operators without a CUDA kernel in onnxruntime-gpu {table.version}",
                found=", ".join(missing),
                hint="run this bundle with TensorRT (`--target tensorrt` or `tensorrt-rtx`) or on the CPU",
            )
        with output_errors(partial):
            onnx.save(rewritten, partial)
        record = FileRecord.of(partial)
        return Measured(record, len(rewritten.graph.node), (), None, perf_counter() - start)


def all_sizes(contract: NetworkContract, bundle: Bundle) -> Profile:
    """Everything that the bundle's graph of a network accepts."""
    manifest = bundle.manifest
    sizes = manifest.sizes
    extents: dict[str, Extent] = {
        "B": (manifest.slots[0], *manifest.slots),
        "G": (manifest.guidance_batch[0], *manifest.guidance_batch),
        "W": (sizes.min[0], sizes.default[0], sizes.max[0]),
        "H": (sizes.min[1], sizes.default[1], sizes.max[1]),
        "R": PROMPTS,
        "T": TIMESTEPS,
        "n": FACES,
    }
    return {symbol: extents[symbol] for symbol in contract.symbols}
