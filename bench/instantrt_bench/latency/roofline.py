"""How much of the machine's peak the denoise and decode stages reach: costs from the ONNX, times measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from instantrt.bundle import Bundle
from instantrt_bench.latency.scenario import Scenario
from instantrt_engines.cost import Cost, cost_of
from instantrt_engines.graph import ShapedGraph, load_graph

# Dense half-precision tensor-core peak in TFLOP/s, memory bandwidth in GB/s: NVIDIA's data sheets.
GPU_PEAKS = {
    "NVIDIA A100-SXM4-40GB": (312.0, 1555.0),
    "NVIDIA A100-SXM4-80GB": (312.0, 2039.0),
    "NVIDIA H100 80GB HBM3": (989.4, 3350.0),
    "NVIDIA H200": (989.4, 4800.0),
}
MATRIX, COPY_BYTES, TRIES = 1024, 128 * 2**20, 5


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


def stage_costs(bundle: Bundle, scenario: Scenario) -> dict[str, Cost]:
    """What one execution of each stage costs: one call of the loop's networks, one of the VAE's."""
    slots = min(scenario.samples, bundle.manifest.slots[1])
    guidance_batch = scenario.request(b"", "of this size").guidance_batch
    symbols = {"B": slots, "G": guidance_batch, "W": scenario.width, "H": scenario.height}
    return {stage: _sum(bundle, stage, symbols) for stage in ("denoise", "decode")}


def gpu_peak(name: str | None) -> Peak | None:
    """The peak of a GPU by its name, None if it is not in the table."""
    if name not in GPU_PEAKS:
        return None
    return Peak(*GPU_PEAKS[name], source=f"data sheet of {name}, dense fp16")


def measured_cpu_peak() -> Peak:
    """The best of several fp32 matrix products and copies with numpy, on the threads that numpy takes."""
    rng = np.random.default_rng(0)
    a, b, product = (rng.standard_normal((MATRIX, MATRIX), dtype=np.float32) for _ in range(3))
    source, copy = np.zeros(COPY_BYTES, np.uint8), np.ones(COPY_BYTES, np.uint8)
    product_s = _best_s(lambda: np.matmul(a, b, out=product))
    copy_s = _best_s(lambda: np.copyto(copy, source))
    return Peak(
        tflops=2 * MATRIX**3 / product_s / 1e12,
        gbs=2 * COPY_BYTES / copy_s / 1e9,  # read and written
        source=f"measured: numpy's fp32 product of {MATRIX}x{MATRIX} matrices, copy of {COPY_BYTES >> 20} MiB",
    )


def _best_s(work: Any) -> float:
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
