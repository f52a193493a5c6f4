"""The table of systems: every row can be opened, asked for and told from the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from instantrt import InstantID
from instantrt_bench.latency.systems import RuntimeSystem, SystemSpec, open_system
from instantrt_bench.report.svg import COLOURS
from instantrt_bench.results.systems import BF16_FLOOR_DB, CPU_MATRIX, DTYPES, REFERENCES, ROWS, SYSTEMS, psnr_floor_db


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.id)
def test_a_row_is_whole(row: Any) -> None:
    assert row.id.startswith(f"{row.kind}-")
    assert (row.target is not None) == (row.kind == "runtime")
    assert row.dtype is None or row.dtype in DTYPES
    assert (row.dtype == "bf16") == row.id.endswith("-bf16") == (row.min_psnr_db is not None)
    assert row.colour in COLOURS


def test_ids_differ_and_fp32_judges_first() -> None:
    assert len(SYSTEMS) == len(ROWS)
    assert [SYSTEMS[name].dtype for name in REFERENCES] == [None, None, "bf16", "bf16"]
    assert len({row.colour for row in CPU_MATRIX}) == len(CPU_MATRIX) == 7  # they stand in one figure


@pytest.mark.parametrize(
    ("systems", "asked", "floor"),
    [
        (["runtime-onnxruntime", "reference-eager"], 30, 30),
        (["runtime-openvino", "reference-eager"], 80, 80),
        (["reference-compiled-bf16", "reference-eager"], 30, BF16_FLOOR_DB),
        (["runtime-onnxruntime", "reference-eager-bf16"], 80, BF16_FLOOR_DB),
        (["reference-eager-bf16", "reference-eager"], 10, 10),
    ],
)
def test_where_one_of_two_computes_in_bf16_its_floor_holds(systems: list[str], asked: float, floor: float) -> None:
    assert psnr_floor_db(systems, asked) == floor


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("runtime-onnxruntime", {"target": "onnxruntime", "threads": 2}),
        ("runtime-openvino", {"target": "openvino", "threads": 2, "precision_hint": "f32"}),
        ("runtime-openvino-bf16", {"target": "openvino", "threads": 2, "precision_hint": "bf16"}),
        ("runtime-tensorrt", {"target": "tensorrt", "threads": None}),
    ],
)
def test_the_runtime_is_loaded_as_its_row_says(
    monkeypatch: pytest.MonkeyPatch, name: str, expected: dict[str, Any]
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(InstantID, "load", lambda bundle, **options: asked.append(options))
    assert isinstance(open_system(SystemSpec(name, Path("bundle"), None, 2)), RuntimeSystem)
    assert asked == [expected]
