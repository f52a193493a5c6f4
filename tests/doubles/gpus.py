"""GPUs as the driver describes them, for what depends on which one is there."""

from __future__ import annotations

from instantrt.device.properties import GpuProperties


def gpu(compute_capability: str, name: str = "a GPU", multiprocessors: int = 46) -> GpuProperties:
    """The first GPU of a machine."""
    return GpuProperties(0, name, compute_capability, multiprocessors)


H100 = gpu("9.0", "NVIDIA H100 80GB HBM3", 132)
H200 = gpu("9.0", "NVIDIA H200", 132)
MIG_SLICE = gpu("9.0", "NVIDIA H100 80GB HBM3 MIG 3g.40gb", 60)
