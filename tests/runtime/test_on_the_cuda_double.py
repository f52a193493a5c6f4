"""Runs the tests of CUDA code below the stand-in for NVIDIA's driver, each file's functions unchanged.

On a machine with a GPU the same functions run there when pytest is started as usual (marker ``gpu``).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from doubles.cuda_double import Outcome, environment, run_on_the_double

TESTS = Path(__file__).parents[1]

# Files whose tests need a GPU or the stand-in. All of their tests must run below the stand-in: none may be skipped.
FILES = ("engines/test_gpu_of_the_build.py", "runtime/test_cuda_device.py")
FILES_WITH_PLANS = (
    "engines/test_kept_memory.py",
    "runtime/test_tensorrt_engine.py",
    "runtime/test_tensorrt_faults.py",
    "runtime/test_tensorrt_pipeline.py",
    "serve/test_worker_tensorrt.py",
)

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is a Linux library")
needs_compiler = pytest.mark.skipif(
    shutil.which("cmake") is None or shutil.which("c++") is None, reason="needs CMake and a compiler"
)


def assert_all_passed(outcome: Outcome) -> None:
    assert outcome.returncode == 0, outcome.output
    assert outcome.skipped == 0, outcome.output
    assert outcome.tests > 0


@needs_linux
@needs_compiler
@pytest.mark.parametrize("name", FILES)
def test_cuda_tests_pass_below_the_stand_in(cuda_double_library: Path, tmp_path: Path, name: str) -> None:
    assert_all_passed(run_on_the_double([TESTS / name], cuda_double_library, tmp_path))


@needs_linux
@needs_compiler
@pytest.mark.parametrize("name", FILES_WITH_PLANS)
def test_tensorrt_tests_pass_below_the_stand_in(
    cuda_double_library: Path, nano_plans: Path, tmp_path: Path, name: str
) -> None:
    assert_all_passed(run_on_the_double([TESTS / name], cuda_double_library, tmp_path, nano_plans))


@needs_linux
@needs_compiler
def test_a_step_counted_in_the_log_is_one_launch(cuda_double_library: Path, nano_plans: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "doubles.cuda_loop",
        nano_plans,
        "unused",
        "--out",
        "unused",
        "--below-the-stand-in",
    ]
    run = environment(cuda_double_library) | {"PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, env=run, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    expected = {
        "graph_launches_per_call": 1,
        "engine_calls_per_call": 2,
        "device_copies_per_call": 3,
        "copies_between_engines": 0,
        "synchronisations_in_loop": 0,
        "host_copies_in_loop": 0,
        "allocations_in_loop": 0,
    }
    assert {name: report[name] for name in expected} == expected
    assert report["max_relative_error"] <= 1e-6
    assert report["host_us_per_call"] > 0


@pytest.mark.slow
@needs_linux
@needs_compiler
def test_slow_tensorrt_tests_pass_below_the_stand_in(
    cuda_double_library: Path, nano_plans: Path, tmp_path: Path
) -> None:
    files = [TESTS / name for name in FILES_WITH_PLANS]
    outcome = run_on_the_double(files, cuda_double_library, tmp_path, nano_plans, options=("-m", "slow"))
    assert_all_passed(outcome)


def test_every_file_with_gpu_tests_is_listed() -> None:
    marker = "mark." + "gpu"
    marked = {str(path.relative_to(TESTS)) for path in TESTS.rglob("test_*.py") if marker in path.read_text()}
    assert marked == {*FILES, *FILES_WITH_PLANS}
