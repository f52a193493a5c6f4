"""`instantrt inspect --vram` recommends only what exists today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from instantrt.bundle import Bundle
from instantrt.cli import main
from instantrt.memory import DeviceMemory
from instantrt_engines.build import BuildRequest, build_plans
from instantrt_engines.inspect import BundleReport, Sizes, inspect_bundle
from instantrt_engines.options import BuildOptions

TARGET = "tensorrt-rtx"


def report_with(folder: Path, options: BuildOptions) -> tuple[BundleReport, DeviceMemory]:
    list(build_plans(Bundle.open(folder), BuildRequest(TARGET, options=options)))
    opened = Bundle.open(folder)
    report = inspect_bundle(opened, TARGET, Sizes(1, 2, *opened.manifest.sizes.default))
    assert report.memory is not None
    return report, report.memory


def remedies(report: BundleReport, vram_bytes: int) -> str:
    return "\n".join(report.remedies(report.fit(vram_bytes)))


def test_plans_that_stream_weights_are_recommended_where_stages_do_not_fit(bundle: Path) -> None:
    report, memory = report_with(bundle, BuildOptions(weight_streaming=True))
    staged, streaming = memory.needed_bytes("staged"), memory.needed_bytes("streaming")
    first = report.fit(staged - 1).first
    assert first is not None
    assert (first.residency, first.weight_budget_bytes) == ("streaming", memory.weight_budget_bytes(staged - 1))
    assert "--residency streaming" in remedies(report, staged - 1)
    assert "instantrt build" not in remedies(report, staged - 1).splitlines()[0]
    assert report.fit(streaming - 1).first is None
    assert "stream weights" not in remedies(report, streaming - 1), "not even with all weights elsewhere"
    assert remedies(report, memory.needed_bytes("resident")) == ""


def test_other_plans_are_to_be_built_for_it_if_that_can_help(bundle: Path) -> None:
    report, memory = report_with(bundle, BuildOptions())
    too_little = memory.needed_bytes("staged") - 1
    assert report.fit(too_little).first is None
    assert "--residency staged" not in remedies(report, too_little)
    assert "--weight-streaming" in remedies(report, too_little)
    assert "stream weights" not in remedies(report, memory.arena_bytes + memory.kept_bytes)


def test_smaller_pictures_are_recommended_where_the_bundle_makes_them(bundle: Path) -> None:
    report, memory = report_with(bundle, BuildOptions())
    assert Bundle.open(bundle).manifest.sizes.min < Bundle.open(bundle).manifest.sizes.default
    assert "--sizes WxH" in remedies(report, memory.needed_bytes("staged") - 1)


def test_what_fits_and_the_remedies_are_printed_and_in_the_json(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, memory = report_with(bundle, BuildOptions())
    expected = report.remedies(report.fit(10**6))
    assert main(["inspect", str(bundle), "--vram", "1MB", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["fit"]["remedies"] == list(expected)
    assert data["fit"]["auto"] is None
    assert [r["residency"] for r in data["fit"]["residencies"]] == ["resident", "staged"]
    assert data["memory"]["residencies"]["staged"]["needed_bytes"] == memory.needed_bytes("staged")
    assert main(["inspect", str(bundle), "--vram", "1MB"]) == 0
    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if line.startswith("To do: ")] == [f"To do: {r}" for r in expected]
    assert "staged: does not fit into 0.00 GB" in text
