"""Datacenter plans are for the GPU that they are built on. Runs on a GPU, and on the stand-in driver."""

from __future__ import annotations

import pytest

pytest.importorskip("cuda.core", reason="needs cuda-core")

from instantrt.device.cuda import CudaDevice
from instantrt.plan import TunedFor
from instantrt_engines.build_support import BUILD_SUPPORT
from instantrt_engines.options import BuildOptions

pytestmark = pytest.mark.gpu


def test_datacenter_plans_are_for_the_gpu_of_the_build(cuda_device: CudaDevice) -> None:
    here, support = cuda_device.properties, BUILD_SUPPORT["tensorrt"]
    assert support.compute(BuildOptions()) == (here.compute_capability,)
    assert support.tuned_for(BuildOptions()) == TunedFor(here.name, here.multiprocessors)
    compatible = BuildOptions(hardware_compatibility="same_compute_capability")
    assert (support.compute(compatible), support.tuned_for(compatible)) == ((here.compute_capability,), None)
    later = BuildOptions(hardware_compatibility="ampere_plus")
    assert (support.compute(later), support.tuned_for(later)) == (("8.0+",), None)
    assert BUILD_SUPPORT["tensorrt-rtx"].tuned_for(BuildOptions()) is None, "portable"
