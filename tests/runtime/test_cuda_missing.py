"""What a machine without CUDA's Python packages, without a driver or without a GPU says: a cause and a cure."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

OPEN = """
import sys
{before}
from instantrt.errors import InstantRTError
try:
    from instantrt.device.cuda import CudaDevice
    CudaDevice()
except InstantRTError as error:
    print(error.code, "|", error)
"""


def said(before: str = "") -> str:
    """What opening the first GPU says in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", OPEN.format(before=before)], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_without_the_packages_the_extra_is_named() -> None:
    message = said("sys.modules['cuda'] = None")
    assert message.startswith("missing_extra | ")
    assert 'pip install "instantrt[rtx]"' in message


def test_without_a_driver_its_installation_is_named() -> None:
    pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings")
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        message = said()
    else:
        pytest.skip("this machine has a driver")
    assert message.startswith("device | ")
    assert "libcuda.so.1" in message
    assert "install the NVIDIA driver" in message


@pytest.mark.parametrize(("target", "extra"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "rtx")])
def test_without_the_packages_each_target_names_its_own_extra(target: str, extra: str) -> None:
    code = f"""
import sys
sys.modules["cuda"] = None
from instantrt.errors import MissingExtraError
from instantrt.targets import TARGETS
try:
    TARGETS["{target}"](None, None)
except MissingExtraError as error:
    print(error.hint)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f'pip install "instantrt[{extra}]"'
