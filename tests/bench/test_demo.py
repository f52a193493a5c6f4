"""The demo and the CPU benchmark as they are run, on nano, with few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from instantrt_bench import cpu, demo


def test_demo_writes_the_picture_and_the_numbers(
    nano_bundle: Path, nano_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    options = ["--out", str(out), "--steps", "4", "--seed", "5", "--threads", "2"]
    assert demo.main([str(nano_bundle), str(nano_checkpoint), *options]) == 0
    facts = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    assert facts["psnr_db"] >= 50
    assert facts["ssim"] > 0.999
    assert (facts["steps"], facts["seed"], facts["threads"]) == (4, 5, 2)
    assert facts["runs"] == len(facts["reference"]["latency_ms_samples"]) == 5
    assert facts["latency_ratio"] == pytest.approx(
        facts["latency_ms_reference"] / facts["latency_ms_runtime"], rel=1e-2
    )
    assert facts["host_overhead_us_per_step"] > 0
    with Image.open(out / "demo.png") as sheet:
        assert sheet.width > 4 * 384
    printed = capsys.readouterr().out
    assert "end to end" in printed
    assert "demo.png" in printed


def test_cpu_benchmark_says_whether_its_goals_were_met(
    nano_bundle: Path, nano_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--out", str(tmp_path), "--steps", "4", "--runs", "1", "--threads", "2"]
    status = cpu.main([str(nano_bundle), str(nano_checkpoint), *options])
    facts = json.loads((tmp_path / "bench-cpu.json").read_text(encoding="utf-8"))
    goals = facts["goals"]
    quiet, overhead_us = facts["quiet"], facts["runtime"]["host_overhead_us_per_step"]
    assert quiet == (facts["foreign_cpus"] is None or facts["foreign_cpus"] <= 0.15)
    assert goals["latency_ratio"]["met"] == (quiet and facts["latency_ratio"] >= 3)
    assert goals["host_overhead_us_per_step"]["met"] == (quiet and overhead_us <= 100)
    assert status == (0 if all(goal["met"] for goal in goals.values()) else 1)
    printed = capsys.readouterr().out
    assert ("MISSED" in printed or "NOT JUDGED" in printed) == (status == 1)
    assert facts["psnr_db"] >= 50
    assert facts["machine"]["packages"]["onnxruntime"]


@pytest.mark.parametrize("program", [demo, cpu])
def test_a_mistake_is_one_message_and_not_a_traceback(
    program, nano_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main([str(tmp_path), str(nano_checkpoint), "--out", str(tmp_path / "out")]) == 2
    assert "not a bundle" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
