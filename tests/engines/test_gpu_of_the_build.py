"""Datacenter plans are for the GPU that they are built on. Runs on a GPU, and on the stand-in driver."""

from __future__ import annotations

import pytest

pytest.importorskip("cuda.core", reason="needs cuda-core")

from instantrt.device.cuda import CudaDevice
from instantrt_engines.build_support import BUILD_SUPPORT
from instantrt_engines.options import BuildOptions

pytestmark = pytest.mark.gpu


def test_datacenter_plans_are_for_the_gpu_of_the_build(cuda_device: CudaDevice) -> None:
    here = cuda_device.properties.compute_capability
    support = BUILD_SUPPORT["tensorrt"]
    assert support.compute(BuildOptions()) == (here,)
    assert support.compute(BuildOptions(hardware_compatibility="ampere_plus")) == ("8.0+",)
