"""The check on a real GPU as far as it can be tried without one: torch modules as a target, a dry run of it all."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import monotonic
from typing import Any
from zipfile import ZipFile

import numpy as np
import numpy.typing as npt
import pytest
import torch

from doubles.cuda_double import environment
from instantrt import GenerateRequest, InstantID
from instantrt.bundle import Bundle
from instantrt.device.host import HostDevice
from instantrt_bench.gpu_check.__main__ import RESULTS, SECTIONS, main
from instantrt_bench.gpu_check.measure import relative_error, spread
from instantrt_bench.gpu_check.options import Options
from instantrt_bench.gpu_check.report import Report, SkippedError, as_table
from instantrt_bench.gpu_check.torch_target import (
    CpuPlace,
    ModuleOf,
    TorchTarget,
    fused_attention,
    fused_attentions,
)
from instantrt_bench.gpu_check.vae import VAE_PRECISIONS
from instantrt_export.networks import attention
from randomness import fresh_rng

FP32 = 1e-4
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in driver is a Linux library")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small networks: more threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def request(photo: npt.NDArray[np.uint8], **fields: Any) -> GenerateRequest:
    return GenerateRequest(photo, "a person", width=64, height=64, seed=3, steps=6, **fields)


def pipeline(bundle: Path, module_of: ModuleOf, *, eager: bool = False) -> InstantID:
    opened = Bundle.open(bundle)
    return InstantID(opened, TorchTarget(CpuPlace(), opened.contracts, module_of, opened.onnx), eager=eager)


def test_torch_modules_give_the_pictures_of_onnx_runtime(
    nano_bundle: Path, nano_modules: ModuleOf, astronaut: npt.NDArray[np.uint8]
) -> None:
    cases = [request(astronaut, sampler="ddim"), request(astronaut, samples=2, guidance_scale=1.0)]
    with InstantID.load(nano_bundle, threads=1) as onnx, pipeline(nano_bundle, nano_modules) as captured:
        for case in cases:
            expected, found = onnx.run(case), captured.run(case)
            assert relative_error(found.latents, expected.latents) <= FP32
            assert np.abs(found.pixels.astype(int) - expected.pixels).max() <= 1
        assert min(captured.run(cases[0]).timings.overhead_us) >= 0
        with pipeline(nano_bundle, nano_modules, eager=True) as eager, fused_attentions():
            assert relative_error(eager.run(cases[0]).latents, onnx.run(cases[0]).latents) <= FP32


def test_engines_are_bound_and_closed_as_those_of_other_targets(nano_bundle: Path, nano_modules: ModuleOf) -> None:
    opened, place = Bundle.open(nano_bundle), CpuPlace()
    with closing(TorchTarget(place, opened.contracts, nano_modules)) as target:
        with pytest.raises(KeyError, match="no torch module"):
            target.load("face_encoder", {})
        engine = target.load("image_projection", {})
        with pytest.raises(KeyError, match="'picture'"):
            engine.bind("picture", place.device.allocate((1,), np.dtype(np.float32)))
        with pytest.raises(ValueError, match="not the device's"):
            engine.enqueue(HostDevice().stream)
        engine.close()
        engine.close()
        with pytest.raises(RuntimeError, match="is closed"):
            engine.enqueue(place.device.stream)
        assert target.module("image_projection") is target.module("image_projection")


def test_fused_attention_is_the_exports() -> None:
    rng = fresh_rng()
    q, k, v = (torch.from_numpy(rng.standard_normal((2, n, 32), np.float32)) for n in (7, 5, 5))
    expected = attention.attend(q, k, v, heads=4)
    torch.testing.assert_close(fused_attention(q, k, v, heads=4), expected, rtol=1e-5, atol=1e-6)
    spelled = attention.attend
    with fused_attentions():
        assert attention.attend is fused_attention
    assert attention.attend is spelled


def test_a_report_keeps_what_was_found_and_what_went_wrong(tmp_path: Path) -> None:
    report = Report(tmp_path / "section.json", monotonic() + 5)
    with report.step("good"):
        report.add(figure=1.23456, times=spread([1.0, 2.0, 3.0]))
        report.check("an error", 0.5, 1.0)
    with report.step("bad"):
        raise ValueError("it broke")
    with report.step("absent"):
        raise SkippedError("no such thing here")
    with report.step("too late"):
        report.require(60)
        pytest.fail("there was no time for it")
    assert not report.passed
    kept = json.loads((tmp_path / "section.json").read_text())
    assert kept["figures"] == {"figure": 1.235, "times": {"median": 2.0, "p10": 1.2, "p90": 2.8, "count": 3}}
    assert set(kept["skipped"]) == {"absent", "too late"}
    report.check("not a number", float("nan"), 1.0)
    table = as_table({"section": json.loads((tmp_path / "section.json").read_text())})
    for text in ("FAILED", "ok  an error", "BAD not a number", "ValueError: it broke", "no such thing here"):
        assert text in table


def run_dry(library: Path, out: Path, *options: str) -> dict[str, Any]:
    """The sections of a dry run above the stand-in driver, which may not fail."""
    command = [sys.executable, "-m", "instantrt_bench.gpu_check", "--dry-run", "--out", str(out), *options]
    done = subprocess.run(command, env=environment(library), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    sections: dict[str, Any] = json.loads((out / RESULTS).read_text())["sections"]
    assert {section["status"] for section in sections.values()} == {"passed"}
    assert all(f"== {name}  passed" in done.stdout for name in sections)
    return sections


@needs_linux
def test_a_dry_run_sees_the_driver_and_tries_its_device(cuda_double_library: Path, tmp_path: Path) -> None:
    sections = run_dry(cuda_double_library, tmp_path, "--only", "environment", "driver", "pytest")
    assert sections["environment"]["figures"]["gpu"]  # the stand-in's
    assert sections["driver"]["checks"]["wrong bytes after the launches"]["ok"]
    assert sections["pytest"]["skipped"]


VAE_CHECKS = {
    *(f"vae, {name}: error of what it decodes" for name in ("fp16", "scaled fp16")),
    "vae beyond fp16: plain fp16 holds it",
    "vae beyond fp16, scaled fp16: error of what it decodes",
}


@pytest.mark.parametrize(
    ("name", "checks"),
    [
        ("nano", {"torch, captured, fp32: error of latents"}),
        ("full_size", {"runtime, captured: error of one call to fp32", *VAE_CHECKS}),
        ("memcheck", {"checks that failed"}),
    ],
)
def test_a_dry_run_of_a_section(name: str, checks: set[str], trained_bundle: Path, tmp_path: Path) -> None:
    """In this process, which has torch; the whole command is slow."""
    section = next(section for section in SECTIONS if section.name == name)
    module, _, function = section.function.partition(".")
    report = Report(tmp_path / f"{name}.json", monotonic() + 500)
    run = getattr(importlib.import_module(f"instantrt_bench.gpu_check.{module}"), function)
    run(report, Options(dry_run=True, tree=None, scratch=tmp_path, bundle=trained_bundle))
    assert report.passed, report.errors or report.checks
    assert checks <= set(report.checks)
    times = {figure.removesuffix(" ms") for figure in report.figures if figure.startswith("vae, ")}
    assert times == ({f"vae, {precision.name}" for precision in VAE_PRECISIONS} if name == "full_size" else set())


@pytest.mark.slow
@needs_linux
def test_a_dry_run_passes_all_sections(cuda_double_library: Path, trained_bundle: Path, tmp_path: Path) -> None:
    sections = run_dry(cuda_double_library, tmp_path, "--bundle", str(trained_bundle))
    assert list(sections) == [section.name for section in SECTIONS]


@pytest.mark.parametrize(
    ("code", "status"),
    [("import os; os._exit(3)", "FAILED"), ("import time; time.sleep(60)", "TIMED OUT"), ("", "passed")],
)
def test_a_section_that_dies_or_hangs_costs_only_itself(
    code: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "instantrt_bench.gpu_check.__main__.Check._command",
        lambda _self, section, folder, _seconds: [
            sys.executable,
            "-c",
            f"import pathlib, json; p = pathlib.Path({str(folder)!r}); p.mkdir(); "
            f"(p / '{section.name}.json').write_text(json.dumps({{'status': 'passed'}})); {code}",
        ],
    )
    monkeypatch.setattr(
        "instantrt_bench.gpu_check.__main__.SECTIONS", (SECTIONS[0].__class__("driver", "driver.run", 0.05, 0),)
    )
    minutes = "0.1" if status == "TIMED OUT" else "1"  # of which a section gets a twentieth
    assert main(["--out", str(tmp_path), "--minutes", minutes]) == int(status != "passed")
    results = json.loads((tmp_path / RESULTS).read_text())
    assert results["sections"]["driver"]["status"] == status
    assert f"== driver  {status}" in capsys.readouterr().out


def test_wheels_in_a_folder_stand_for_what_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with ZipFile(wheels / "probe_of_wheels-1.0-py3-none-any.whl", "w") as wheel:
        info = "probe_of_wheels-1.0.dist-info"
        wheel.writestr("probe_of_wheels.py", "found = True\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: probe_of_wheels\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setattr(
        "instantrt_bench.gpu_check.__main__.Check._command",
        lambda _self, section, folder, _seconds: [
            sys.executable,
            "-c",
            f"import pathlib, probe_of_wheels; p = pathlib.Path({str(folder)!r}); p.mkdir(); "
            f"(p / '{section.name}.json').write_text('{{\"status\": \"passed\"}}')",
        ],
    )
    assert main(["--out", str(tmp_path / "out"), "--only", "driver", "--wheels", str(wheels)]) == 0


def test_a_section_for_which_no_time_is_left_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--minutes", "0", "--only", "driver"]) == 0
    assert json.loads((tmp_path / RESULTS).read_text())["sections"]["driver"]["status"] == "skipped"
    assert "needs 15" in capsys.readouterr().out
