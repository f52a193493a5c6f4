"""How much of the machine's peak the denoise and decode stages reach: costs from the ONNX, times measured.

The reference is credited with the same work: what it does beyond the runtime's graphs is its own affair.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

from instantrt.bundle import Bundle
from instantrt_bench.latency.scenario import Scenario
from instantrt_bench.results.systems import BYTES_OF
from instantrt_engines.cost import Cost, cost_of
from instantrt_engines.graph import ShapedGraph, load_graph

# Dense half-precision tensor-core peak in TFLOP/s, memory bandwidth in GB/s: NVIDIA's data sheets.
GPU_PEAKS = {
    "NVIDIA A100-SXM4-40GB": (312.0, 1555.0),
    "NVIDIA A100-SXM4-80GB": (312.0, 2039.0),
    "NVIDIA H100 80GB HBM3": (989.4, 3350.0),
    "NVIDIA H200": (989.4, 4800.0),
}
MATRIX, COPY_BYTES, TRIES = 1024, 128 * 2**20, 8


@dataclass(frozen=True)
class Peak:
    """What a machine can do at best.

    Args:
        tflops: floating-point operations per second, in 10^12.
        gbs: memory traffic per second, in 10^9 bytes.
        source: where the figures come from.
    """

    tflops: float
    gbs: float
    source: str


@dataclass(frozen=True)
class Bounds:
    """What bounds a system's times from below.

    Args:
        costs: of one execution of each stage.
        peak: of what it runs on, in its dtype; None if it is not known.
    """

    costs: Mapping[str, Cost]
    peak: Peak | None


@dataclass(frozen=True)
class Roofline:
    """One stage of a system.

    Args:
        flops: of one execution.
        bytes: that one execution must move at least.
        ms: of one execution, median.
        gflops_per_s: reached.
        gbytes_per_s: reached at least.
        flops_per_byte: arithmetic intensity.
        peak: None if it is not known.
        bound: what limits the stage at best, ``compute`` or ``memory``; None without a peak.
        share_of_peak: of the limit at this intensity, 0 to 1; None without a peak.
    """

    flops: int
    bytes: int
    ms: float
    gflops_per_s: float
    gbytes_per_s: float
    flops_per_byte: float
    peak: Peak | None
    bound: str | None
    share_of_peak: float | None

    @classmethod
    def of(cls, cost: Cost, ms: float, peak: Peak | None) -> Roofline:
        """From a cost and a time."""
        gflops, gbytes, intensity = cost.flops / ms / 1e6, cost.bytes / ms / 1e6, cost.flops / cost.bytes
        limit = None if peak is None else min(peak.tflops * 1e3, peak.gbs * intensity)
        return cls(
            flops=cost.flops,
            bytes=cost.bytes,
            ms=ms,
            gflops_per_s=gflops,
            gbytes_per_s=gbytes,
            flops_per_byte=intensity,
            peak=peak,
            bound=None if peak is None else "memory" if peak.gbs * intensity < peak.tflops * 1e3 else "compute",
            share_of_peak=None if limit is None else gflops / limit,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def stage_costs(bundle: Bundle, scenario: Scenario, batch: int, dtype: str) -> dict[str, Cost]:
    """What one execution of each stage costs: one call of the loop's networks, one of the VAE's.

    Args:
        bundle: its graphs are what is counted.
        scenario: size and guidance.
        batch: samples that one call computes.
        dtype: what the system computes in; its numbers are what memory must move.
    """
    guidance_batch = scenario.request(b"", "of this size").guidance_batch
    symbols = {"B": batch, "G": guidance_batch, "W": scenario.width, "H": scenario.height}
    shrunk = BYTES_OF[dtype] / BYTES_OF[bundle.precision]
    costs = {stage: _sum(bundle, stage, symbols) for stage in ("denoise", "decode")}
    return {stage: replace(cost, bytes=round(cost.bytes * shrunk)) for stage, cost in costs.items()}


def gpu_peak(name: str | None) -> Peak | None:
    """The peak of a GPU by its name, None if it is not in the table."""
    if name not in GPU_PEAKS:
        return None
    return Peak(*GPU_PEAKS[name], source=f"data sheet of {name}, dense fp16")


def measured_cpu_peaks(dtypes: Iterable[str], threads: int) -> dict[str, Peak]:
    """The best of several matrix products in each dtype, and of copies, with torch on so many threads.

    In a process of its own, so that neither torch nor its threads stay in this one.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return {dtype: process.submit(_cpu_peak, dtype, threads).result() for dtype in dict.fromkeys(dtypes)}


def _cpu_peak(dtype: str, threads: int) -> Peak:
    import torch

    from instantrt_bench.reference.dtypes import DTYPES

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    a, b, product = (torch.randn(MATRIX, MATRIX, generator=generator).to(DTYPES[dtype]) for _ in range(3))
    source, copy = torch.zeros(COPY_BYTES // 4), torch.ones(COPY_BYTES // 4)
    product_s = _best_s(lambda: torch.mm(a, b, out=product))
    copy_s = _best_s(lambda: copy.copy_(source))
    what = f"measured: torch's {dtype} product of {MATRIX}x{MATRIX} matrices, copy of {COPY_BYTES >> 20} MiB"
    return Peak(
        tflops=2 * MATRIX**3 / product_s / 1e12,
        gbs=2 * COPY_BYTES / copy_s / 1e9,  # read and written
        source=f"{what}, {threads} threads",
    )


def _best_s(work: Callable[[], object]) -> float:
    times = []
    for _ in range(TRIES):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _sum(bundle: Bundle, stage: str, symbols: Mapping[str, int]) -> Cost:
    costs = [
        cost_of(ShapedGraph.at(load_graph(bundle.path(bundle.manifest.networks[name])), contract, symbols))
        for name, contract in bundle.contracts.items()
        if contract.stage == stage and name in bundle.manifest.networks
    ]
    return Cost(
        parameters=sum(cost.parameters for cost in costs),
        weight_bytes=sum(cost.weight_bytes for cost in costs),
        flops=sum(cost.flops for cost in costs),
        bytes=sum(cost.bytes for cost in costs),
    )
