"""`instantrt doctor`: what this machine can do, with whatever is or is not installed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from instantrt.cli import main

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
    assert main(["doctor", "--target", "onnxruntime"]) == 0
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
