"""What the driver says of itself and of the GPUs it sees. Asking allocates nothing and makes no context."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from instantrt.device.check import call, check_driver, driver, driver_errors, version_text
from instantrt.errors import DeviceError

from cuda import core  # isort: skip  (after device.check, which says how to install it)

__all__ = ["GpuProperties", "cuda_version", "gpu_uuid", "open_gpu", "visible_gpus"]


@dataclass(frozen=True)
class GpuProperties:
    """One GPU.

    Args:
        ordinal: as nvidia-smi counts it among the visible ones.
        name: the vendor's.
        compute_capability: e.g. ``"8.9"``.
        multiprocessors: how many streaming multiprocessors it has.
    """

    ordinal: int
    name: str
    compute_capability: str
    multiprocessors: int

    @classmethod
    def of(cls, gpu: Any) -> GpuProperties:
        """Those of a ``cuda.core.Device``.

        Raises:
            DeviceError: the driver does not answer.
        """
        with driver_errors("reading a GPU's properties"):
            capability = gpu.compute_capability
            return cls(
                ordinal=int(gpu.device_id),
                name=str(gpu.name),
                compute_capability=f"{capability.major}.{capability.minor}",
                multiprocessors=int(gpu.properties.multiprocessor_count),
            )


def cuda_version() -> str:
    """The newest CUDA version that the installed driver supports, e.g. ``"13.0"``.

    Raises:
        DeviceError: there is no driver.
    """
    return version_text(_driver_version())


def visible_gpus() -> tuple[GpuProperties, ...]:
    """All GPUs that this process may use, in the driver's order.

    Raises:
        DeviceError: there is no driver, it is too old, or none of the GPUs is visible.
    """
    return tuple(GpuProperties.of(gpu) for gpu in _gpus())


def gpu_uuid(ordinal: int) -> str:
    """What tells a GPU or MIG instance from all others, as 32 hexadecimal digits in five groups.

    Libraries that count GPUs in another order, or hidden ones as well, find it by that.

    Raises:
        DeviceError: there is no driver, it is too old, or there is no such GPU.
    """
    with driver_errors("reading a GPU's UUID"):
        return str(open_gpu(ordinal).uuid)


def open_gpu(ordinal: int) -> Any:
    """The ``cuda.core.Device`` of that ordinal.

    Raises:
        DeviceError: there is no driver, it is too old, or there is no such GPU.
    """
    gpus = _gpus()
    if not 0 <= ordinal < len(gpus):
        raise DeviceError(
            f"there is no GPU {ordinal}",
            found=f"{len(gpus)} visible, counted from 0",
            hint="choose one that nvidia-smi lists, and check CUDA_VISIBLE_DEVICES",
        )
    return gpus[ordinal]


def _driver_version() -> int:
    with driver_errors("reading the driver's version"):  # cuda.core asks NVML for it, which containers may lack
        code, number = driver.cuDriverGetVersion()
        call("reading the driver's version", code)
    return int(number)


def _gpus() -> tuple[Any, ...]:
    check_driver(_driver_version())
    with driver_errors("running on an NVIDIA GPU"):
        return tuple(core.Device.get_all_devices())
