"""The CUDA driver's errors, said with a cause and a cure. The one place where they become ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from instantrt.errors import DeviceError, MissingExtraError

try:
    from cuda.bindings import driver
    from cuda.bindings._internal.utils import FunctionNotFoundError  # nor has cuda.bindings 13 for this one
    from cuda.core._utils.cuda_utils import CUDAError  # cuda.core 1.2 has no public name for what it raises
    from cuda.pathfinder import DynamicLibNotFoundError
except ImportError as error:
    raise MissingExtraError("running on an NVIDIA GPU", "rtx", found=str(error)) from error

__all__ = ["CURES", "CUDAError", "call", "check_driver", "device_error", "driver", "driver_errors", "version_text"]

RESTART = "the GPU's context is lost: restart the process, and run it under compute-sanitizer if it happens again"

CURES = {
    "CUDA_ERROR_OUT_OF_MEMORY": "free GPU memory (nvidia-smi says who uses it), or take fewer slots or a smaller size",
    "CUDA_ERROR_NO_DEVICE": "check that nvidia-smi lists a GPU and that CUDA_VISIBLE_DEVICES does not hide it",
    "CUDA_ERROR_INVALID_DEVICE": "choose one of the GPUs that nvidia-smi lists, counted from 0",
    "CUDA_ERROR_DEVICE_UNAVAILABLE": "another process has the GPU to itself: end it, or set compute mode default",
    "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH": "the driver was updated while running: restart the machine",
    "CUDA_ERROR_SYSTEM_NOT_READY": "start the NVIDIA services this machine needs (nvidia-fabricmanager on NVSwitch)",
    "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE": "update the driver: forward compatibility does not cover this GPU",
    "CUDA_ERROR_NOT_SUPPORTED": "update the driver: it lacks something that this GPU or version needs",
    "CUDA_ERROR_NOT_INITIALIZED": "the process was forked after CUDA began: start workers with the spawn method",
    "CUDA_ERROR_ECC_UNCORRECTABLE": "the GPU's memory is failing: take it out of service and restart",
    "CUDA_ERROR_ILLEGAL_ADDRESS": RESTART,
    "CUDA_ERROR_LAUNCH_FAILED": RESTART,
    "CUDA_ERROR_LAUNCH_TIMEOUT": "the display driver stopped a long launch: use a GPU without a display; " + RESTART,
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": "allocate, wait and load before the capture, not inside it",
    "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED": "something inside the capture was not allowed: run eagerly to find it",
    "CUDA_ERROR_STREAM_CAPTURE_UNJOINED": "let every stream that the captured work used wait back on the first one",
}
UPDATE_DRIVER = "update NVIDIA's driver: nvidia-smi shows the newest CUDA version that the installed one supports"
UNKNOWN_CURE = "this is likely a bug of InstantRT: report it with the driver's version from nvidia-smi"


def device_error(doing: str, error: Exception) -> DeviceError:
    """What cuda.core or cuda.bindings raised while ``doing`` something, as ours."""
    if isinstance(error, DynamicLibNotFoundError):
        return DeviceError(
            f"{doing} needs NVIDIA's driver",
            found="no libcuda.so.1 on this machine",
            hint="install the NVIDIA driver; in a container, start it with GPU access (docker run --gpus all)",
        )
    if isinstance(error, FunctionNotFoundError):
        found = f"{error}, which cuda-bindings for CUDA {version_text(driver.CUDA_VERSION)} knows"
        return DeviceError(f"{doing} needs a newer driver", found=found, hint=UPDATE_DRIVER)
    name = str(error).partition(":")[0]
    return DeviceError(f"{doing} failed", found=str(error), hint=CURES.get(name, UNKNOWN_CURE), driver_code=name)


@contextmanager
def driver_errors(doing: str) -> Iterator[None]:
    """Turn what the driver reports inside into :class:`DeviceError`, saying what was being done."""
    try:
        yield
    except (CUDAError, DynamicLibNotFoundError, FunctionNotFoundError) as error:
        raise device_error(doing, error) from error


def version_text(number: int) -> str:
    """CUDA's way of counting versions as people write them: 12020 is ``"12.2"``."""
    return f"{number // 1000}.{number % 1000 // 10}"


def check_driver(number: int) -> None:
    """Refuse a driver whose major CUDA version is older than the installed packages', before anything uses it.

    Some of its functions would be missing in the middle of a request, and cuda.core (1.2) can crash on that.

    Args:
        number: as ``cuDriverGetVersion`` counts.

    Raises:
        DeviceError: says both versions.
    """
    if number // 1000 < driver.CUDA_VERSION // 1000:
        raise DeviceError(
            "NVIDIA's driver is older than the installed CUDA packages",
            found=f"a driver for CUDA {version_text(number)}, packages for {version_text(driver.CUDA_VERSION)}",
            hint=f"{UPDATE_DRIVER}; CUDA {driver.CUDA_VERSION // 1000} is needed",
        )


def call(doing: str, code: driver.CUresult) -> None:
    """Raise :class:`DeviceError` unless a ``cuda.bindings`` call answered success."""
    if code == driver.CUresult.CUDA_SUCCESS:
        return
    _, text = driver.cuGetErrorString(code)
    raise device_error(doing, CUDAError(f"{code.name}: {(text or b'').decode()}"))
