"""Runs the tests of CUDA code below the stand-in for NVIDIA's driver, each file's functions unchanged.

On a machine with a GPU the same functions run there when pytest is started as usual (marker ``gpu``).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from doubles.cuda_double import H100, Outcome, Played, environment, run_on_the_double

TESTS = Path(__file__).parents[1]

# Files whose tests need a GPU or the stand-in. All of their tests must run below the stand-in: none may be skipped.
FILES = ("engines/test_gpu_of_the_build.py", "runtime/test_cuda_device.py")
FILES_WITH_PLANS = (
    "engines/test_kept_memory.py",
    "runtime/test_onnxruntime_cuda.py",
    "runtime/test_residency.py",
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
    paths = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    run = environment(cuda_double_library) | {"PYTHONPATH": paths}
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


@needs_linux
@needs_compiler
def test_on_a_gpu_that_rtx_does_not_run_on_the_gpu_tests_skip_and_say_why(
    cuda_double_library: Path, nano_plans: Path, tmp_path: Path
) -> None:
    files = [TESTS / "runtime/test_tensorrt_pipeline.py"]
    outcome = run_on_the_double(files, cuda_double_library, tmp_path, nano_plans, ("-rs",), H100)
    assert outcome.returncode == 0, outcome.output
    assert outcome.tests == outcome.skipped > 15
    assert "of compute capability 9.0" in outcome.output
    assert "use --target tensorrt" in outcome.output


DOCTOR = ("-m", "instantrt.cli", "doctor")
LOADING = """
import sys
from instantrt import InstantID
from instantrt.errors import InstantRTError
try:
    InstantID.load(sys.argv[1], target="tensorrt-rtx")
except InstantRTError as error:
    print(error.code, error, sep="\\n")
"""


def below(library: Path, played: Played, *command: object) -> subprocess.CompletedProcess[str]:
    """Python in a process that sees this GPU and driver."""
    python = [sys.executable, "-W", "error", *map(str, command)]
    done = subprocess.run(python, env=environment(library, played=played), capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return done


@needs_linux
@needs_compiler
def test_an_h100_is_told_to_use_the_other_target(cuda_double_library: Path, nano_bundle: Path) -> None:
    """Before plans are looked for: there are none in this bundle."""
    code, what, found, hint = below(cuda_double_library, H100, "-c", LOADING, nano_bundle).stdout.splitlines()
    assert (code, what) == ("device", "TensorRT-RTX does not run on this GPU")
    assert found.startswith("Found: GPU 0, NVIDIA H100 80GB HBM3, of compute capability 9.0; it runs on 7.5, 8.0,")
    assert hint.startswith("To do: use --target tensorrt; ")


@needs_linux
@needs_compiler
@pytest.mark.parametrize(
    ("played", "fits"),
    [(H100, {"tensorrt"}), (Played(), {"tensorrt", "tensorrt-rtx"}), (Played("TITAN V", "7.0"), set())],
)
def test_doctor_answers_for_each_target_by_the_gpus_capability(
    cuda_double_library: Path, played: Played, fits: set[str]
) -> None:
    done = below(cuda_double_library, played, *DOCTOR, "--json", "--target", "tensorrt-rtx")
    assert done.returncode == (0 if "tensorrt-rtx" in fits else 1)
    report = json.loads(done.stdout)
    (gpu,) = report["machine"]["gpus"]
    assert (gpu["name"], gpu["compute_capability"]) == (played.name, played.compute_capability)
    abilities = {ability["name"]: ability for ability in report["abilities"]}
    for target in ("tensorrt", "tensorrt-rtx"):
        ability = abilities[f"generate on NVIDIA GPUs ({target})"]
        refused = [reason for reason in ability["missing"] if "a GPU that it runs on" in reason]
        assert ability["gpus"] == ([0] if target in fits else [])
        assert (refused == []) == (target in fits)
        if target not in fits:
            assert f"of compute capability {played.compute_capability}" in refused[0]
            assert ability["hint"].startswith("use ")


@needs_linux
@needs_compiler
def test_doctor_says_in_words_what_to_use_on_an_h100(cuda_double_library: Path) -> None:
    text = below(cuda_double_library, H100, *DOCTOR).stdout
    assert "no   generate on NVIDIA GPUs (tensorrt-rtx)" in text
    assert "of compute capability 9.0; it runs on 7.5, 8.0, 8.6, 8.9, 12.0+; use --target tensorrt;" in text


@needs_linux
@needs_compiler
@pytest.mark.parametrize("cuda_driver", [10000, 12090])
def test_a_driver_older_than_the_packages_is_one_message(
    cuda_double_library: Path, nano_bundle: Path, cuda_driver: int
) -> None:
    old = Played(cuda_driver=cuda_driver)
    code, what, found, hint = below(cuda_double_library, old, "-c", LOADING, nano_bundle).stdout.splitlines()
    assert (code, what) == ("device", "NVIDIA's driver is older than the installed CUDA packages")
    version = f"{cuda_driver // 1000}.{cuda_driver % 1000 // 10}"
    assert f"a driver for CUDA {version}, packages for 13." in found
    assert "update NVIDIA's driver" in hint
    report = json.loads(below(cuda_double_library, old, *DOCTOR, "--json").stdout)
    assert report["machine"]["cuda_driver"] == version
    assert found.removeprefix("Found: ") == report["machine"]["no_gpu"]


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
