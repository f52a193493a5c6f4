"""What NVIDIA's management library (NVML) tells of a GPU: energy, memory, throttling, who else uses it.

All of it is optional: what NVML is not there to tell, or does not support on a board, is None and never guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from instantrt.errors import InstantRTError

# nvmlClocksEventReasons, from nvml.h. Idle and application-set clocks are no trouble and not listed.
SLOWDOWNS = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}


@dataclass(frozen=True)
class GpuReading:
    """The GPU at one moment.

    Args:
        energy_mj: millijoules since the driver was loaded.
        slowdowns: why clocks are lower than they could be.
        memory_bytes: device memory by process id.
    """

    energy_mj: int | None
    slowdowns: tuple[str, ...]
    memory_bytes: dict[int, int | None] | None


class GpuMonitor:
    """Reads one GPU. Use :meth:`open`."""

    def __init__(self, nvml: ModuleType, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    @classmethod
    def open(cls, ordinal: int = 0) -> GpuMonitor | None:
        """The GPU that CUDA counts as ``ordinal``, or None without NVML, CUDA's packages, a driver or such a GPU.

        NVML counts in another order than CUDA, and what CUDA_VISIBLE_DEVICES hides as well: it is asked by UUID.
        """
        try:
            import pynvml
        except ImportError:
            return None
        try:
            from instantrt.device.properties import gpu_uuid

            uuid = gpu_uuid(ordinal)
        except InstantRTError:  # CUDA's packages are missing too
            return None
        try:
            pynvml.nvmlInit()
            return cls(pynvml, _handle(pynvml, uuid))
        except pynvml.NVMLError:
            return None

    def facts(self) -> dict[str, Any]:
        """Name, memory and driver."""
        name = self._ask(self._nvml.nvmlDeviceGetName, self._handle)
        memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo, self._handle)
        return {
            "gpu": _text(name),
            "gpu_memory_bytes": None if memory is None else int(memory.total),
            "gpu_driver": _text(self._ask(self._nvml.nvmlSystemGetDriverVersion)),
        }

    def read(self) -> GpuReading:
        """The GPU now."""
        energy = self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption, self._handle)
        reasons = self._ask(self._nvml.nvmlDeviceGetCurrentClocksEventReasons, self._handle) or 0
        return GpuReading(
            energy_mj=None if energy is None else int(energy),
            slowdowns=tuple(name for bit, name in SLOWDOWNS.items() if reasons & bit),
            memory_bytes=self._processes(),
        )

    def close(self) -> None:
        """Let NVML go."""
        self._ask(self._nvml.nvmlShutdown)

    def _processes(self) -> dict[int, int | None] | None:
        compute = self._ask(self._nvml.nvmlDeviceGetComputeRunningProcesses, self._handle)
        graphics = self._ask(self._nvml.nvmlDeviceGetGraphicsRunningProcesses, self._handle)
        if compute is None:
            return None
        return {int(p.pid): p.usedGpuMemory for p in (*compute, *(graphics or ()))}

    def _ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return None


def gpu_flags(readings: Iterable[GpuReading], own_pids: Iterable[int]) -> list[str]:
    """What makes times on this GPU doubtful: slowdowns, and processes that are not ours."""
    own, slowdowns, foreign = set(own_pids), set[str](), set[int]()
    for reading in readings:
        slowdowns |= set(reading.slowdowns)
        foreign |= set(reading.memory_bytes or ()) - own
    flags = [f"the GPU's clocks were held back: {', '.join(sorted(slowdowns))}"] if slowdowns else []
    if foreign:
        flags.append(f"{len(foreign)} other process(es) used the GPU")
    return flags


def _handle(nvml: Any, uuid: str) -> Any:
    """NVML's name for a GPU or for a MIG instance."""
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except nvml.NVMLError:
        return nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}")


def _text(value: Any) -> str | None:
    return value.decode() if isinstance(value, bytes) else value
