"""`instantrt doctor`: what this machine can do, with whatever is or is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from instantrt.cli import doctor, main

WITHOUT_CUDA_PACKAGES = """
import sys
sys.modules["cuda"] = None
from instantrt.cli import main
sys.exit(main({arguments}))
"""


def test_doctor_says_what_is_there_and_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "yes  generate on the CPU (onnxruntime)" in text
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["machine"]["cpu_threads"] >= 1
    assert "yes  generate on the CPU, or on Intel's devices (openvino)" in text
    for target in ("onnxruntime", "openvino"):
        assert main(["doctor", "--target", target]) == 0
    by_name = {ability["name"]: ability for ability in report["abilities"]}
    gpu = by_name["generate on NVIDIA GPUs (tensorrt-rtx)"]
    assert gpu["ready"] or 'pip install "instantrt[rtx]"' in (gpu["hint"] or "") or "driver" in gpu["missing"][-1]
    assert bool(report["machine"]["gpus"]) == (report["machine"]["no_gpu"] is None)


@pytest.mark.parametrize(("arguments", "status"), [(["doctor", "--json"], 0), (["doctor", "--target", "tensorrt"], 1)])
def test_doctor_works_without_cudas_packages(arguments: list[str], status: int) -> None:
    code = WITHOUT_CUDA_PACKAGES.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert "cannot look without cuda-core and cuda-bindings" in done.stdout
    if "--json" in arguments:
        machine = json.loads(done.stdout)["machine"]
        assert (machine["cuda_driver"], machine["gpus"]) == (None, [])


def test_the_gpu_build_of_onnxruntime_serves_the_cpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(distribution: str) -> str:
        if distribution == "onnxruntime":
            raise PackageNotFoundError(distribution)
        return "1.31.1"

    monkeypatch.setattr(doctor, "version", version)
    machine = doctor.Machine("0", "3.11", "Linux", 1, None, (), "the driver sees none")
    by_target = {a.target: doctor.examine(a, machine) for a in doctor.ABILITIES if a.target}
    assert by_target["onnxruntime"].ready
    assert by_target["onnxruntime"].found == {"onnxruntime-gpu": "1.31.1"}
    assert by_target["onnxruntime-cuda"].missing == ("an NVIDIA GPU with its driver (the driver sees none)",)
