"""Section ``environment``: what the machine is, and its two ceilings, measured: moving bytes, multiplying matrices."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from instantrt.errors import InstantRTError
from instantrt_bench.gpu_check.measure import median, times_ms
from instantrt_bench.gpu_check.options import Options
from instantrt_bench.gpu_check.report import Report, SkippedError
from instantrt_bench.latency.gpu import GpuMonitor
from instantrt_bench.results.machine import installed_version

if TYPE_CHECKING:
    import torch

PACKAGES = (
    *("instantrt", "torch", "triton", "diffusers", "transformers", "numpy", "onnx", "onnxscript", "onnxruntime"),
    *("onnxruntime-gpu", "cuda-core", "cuda-bindings", "tensorrt", "tensorrt-rtx-cu13-bindings", "pytest"),
)
MATRIX, COPY_BYTES, TRIES, WARM_UP = 8192, 1 << 30, 50, 20  # far more bytes than a cache holds; clocks take a while
SMALL_MATRIX, SMALL_COPY_BYTES = 256, 1 << 20


def run(report: Report, options: Options) -> None:
    """Describe the machine, then measure it."""
    with report.step("versions"):
        versions = {name: installed_version(name) for name in PACKAGES}
        report.detail(versions=versions, system=platform.platform())
        report.add(python=platform.python_version(), **{n: versions[n] for n in ("torch", "diffusers", "cuda-core")})
    with report.step("driver"):
        _describe_gpus(report)
    with report.step("gpu, idle"):
        monitor = GpuMonitor.open()
        if monitor is None:
            raise SkippedError("NVML cannot be asked (nvidia-ml-py, cuda-core and a driver)")
        report.detail(nvml=monitor.facts(), slowdowns=monitor.read().slowdowns)
        monitor.close()
    with report.step("copy"):
        report.add(copy_gbytes_per_s=copy_gbytes_per_s(options.torch_device))
    with report.step("matrix product"):
        report.add(matmul_fp16_tflops=matmul_tflops(options.torch_device))


def copy_gbytes_per_s(device: torch.device) -> float:
    """Bytes read and written per second by a copy within the device's memory, in 10^9."""
    import torch

    size = COPY_BYTES if device.type == "cuda" else SMALL_COPY_BYTES
    source = torch.randint(256, (size,), dtype=torch.uint8, device=device)
    destination = torch.empty_like(source)
    return 2 * size / median(times_ms(lambda: destination.copy_(source), TRIES, WARM_UP, device)) / 1e6


def matmul_tflops(device: torch.device) -> float:
    """Floating-point operations per second of a product of square matrices (CPUs: fp32) of random numbers, in 10^12."""
    import torch

    side = MATRIX if device.type == "cuda" else SMALL_MATRIX
    tries, warm_up = (TRIES, WARM_UP) if device.type == "cuda" else (3, 1)
    dtype = torch.float16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(a)
    return 2 * side**3 / median(times_ms(lambda: torch.mm(a, b, out=product), tries, warm_up, device)) / 1e9


def _describe_gpus(report: Report) -> None:
    try:
        from instantrt.device.properties import cuda_version, visible_gpus

        report.add(cuda_driver=cuda_version())
        gpus = visible_gpus()
    except InstantRTError as error:
        raise SkippedError(str(error.found)) from error
    if not gpus:
        raise SkippedError("the driver sees no GPU")
    gpu = gpus[0]
    report.add(gpu=gpu.name, compute_capability=gpu.compute_capability, multiprocessors=gpu.multiprocessors)
