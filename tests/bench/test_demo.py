"""The demo as it is run, on nano, with few steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from instantrt_bench import demo


def test_demo_writes_the_picture_and_the_numbers(
    nano_bundle: Path, nano_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "demo"
    options = ["--out", str(out), "--steps", "4", "--seed", "5", "--threads", "1"]
    assert demo.main([str(nano_bundle), str(nano_checkpoint), *options]) == 0
    facts = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    assert facts["psnr_db"] >= 50
    assert facts["ssim"] > 0.999
    assert (facts["steps"], facts["seed"], facts["threads"]) == (4, 5, 1)
    assert facts["runs"] == len(facts["reference"]["latency_ms"]) == 5
    assert facts["latency_ratio"] == pytest.approx(
        facts["latency_ms_reference"] / facts["latency_ms_runtime"], rel=1e-2
    )
    assert facts["host_overhead_us_per_call"] > 0
    with Image.open(out / "demo.png") as sheet:
        assert sheet.width > 4 * 384
    printed = capsys.readouterr().out
    assert "runtime-onnxruntime" in printed
    assert "PSNR" in printed
    assert "demo.png" in printed


def test_a_mistake_is_one_message_and_not_a_traceback(
    nano_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert demo.main([str(tmp_path), str(nano_checkpoint), "--out", str(tmp_path / "out")]) == 1
    assert "not a bundle" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
