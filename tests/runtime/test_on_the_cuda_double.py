"""Runs the tests of CUDA code below the stand-in for NVIDIA's driver, each file's functions unchanged.

On a machine with a GPU the same functions run there when pytest is started as usual (marker ``gpu``).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from doubles.cuda_double import run_on_the_double

TESTS = Path(__file__).parents[1]

# Files whose tests need a GPU or the stand-in. All of their tests must run below the stand-in: none may be skipped.
FILES = (
    "runtime/test_cuda_device.py",
    "runtime/test_cuda_double.py",
)
FILES_WITH_PLANS = (
    "runtime/test_tensorrt_engine.py",
    "runtime/test_tensorrt_pipeline.py",
    "runtime/test_tensorrt_faults.py",
)


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is a Linux library")
@pytest.mark.skipif(shutil.which("cmake") is None or shutil.which("c++") is None, reason="needs CMake and a compiler")
def test_cuda_tests_pass_below_the_stand_in(cuda_double_library: Path, tmp_path: Path) -> None:
    outcome = run_on_the_double([TESTS / name for name in FILES], cuda_double_library, tmp_path)
    assert outcome.returncode == 0, outcome.output
    assert outcome.skipped == 0, outcome.output
    assert outcome.tests > 0


def test_every_file_with_such_tests_is_listed() -> None:
    signs = ("mark." + "gpu", "cuda_" + "double: CudaDouble")  # in two parts, or this file would show them too
    found = {
        str(path.relative_to(TESTS))
        for path in TESTS.rglob("test_*.py")
        if any(sign in path.read_text() for sign in signs)
    }
    assert found <= {*FILES, *FILES_WITH_PLANS}
