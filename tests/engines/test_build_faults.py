"""A plan is replaced with its identity or not at all, whatever fails: the old pair or the new one, never neither.

TensorRT itself is left out: files of a few bytes take the way of every plan.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from doubles.faults import FAULTS, KILL, faulty_disk, killed_at, operations
from instantrt.bundle import Bundle, FileRecord
from instantrt.errors import OutputError
from instantrt.plan import PlanError, new_plan_path, open_plan, plan_path
from instantrt_engines.build import BuildRequest, BuildResult, TensorRTBuilding, build_plans
from instantrt_engines.builder import Measured

TARGET = "tensorrt-rtx"
NETWORK = "image_projection"
REQUEST = BuildRequest(TARGET, only=(NETWORK,), force=True, allow_slow=True)


@pytest.fixture
def content(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the next plan will hold, as the only element."""
    text = ["old"]

    def compile_(self: TensorRTBuilding, model: object, onnx_path: Path, out: Path) -> Measured:
        with out.open("w") as file:
            file.write(text[0])
        return Measured(FileRecord.of(out), 1, (1,), 1, 0.0)

    monkeypatch.setattr(TensorRTBuilding, "_compile", compile_)
    return text


def build(bundle: Path, request: BuildRequest = REQUEST) -> BuildResult:
    (result,) = build_plans(Bundle.open(bundle), request)
    return result


def state(bundle: Path) -> str | None:
    """The plan that can be loaded; None if there is none at all."""
    try:
        with open_plan(Bundle.open(bundle), TARGET, NETWORK).open_verified() as file:
            return file.read().decode()
    except PlanError as error:
        return None if "there is no tensorrt-rtx plan" in error.what else f"neither: {error}"


def names(bundle: Path) -> set[str]:
    return {path.name for path in plan_path(bundle, TARGET, NETWORK).parent.iterdir()}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("before", [None, "old"])
def test_whichever_write_of_a_build_fails_the_plan_is_the_old_or_the_new_one(
    bundle: Path, content: list[str], before: str | None, fault: str
) -> None:
    def prepared() -> None:
        shutil.rmtree(bundle / "plans", ignore_errors=True)
        content[0] = "old"
        if before is not None:
            build(bundle)
        content[0] = "new"

    prepared()
    count = len(operations(bundle, lambda: build(bundle)))
    assert count > 8
    states = []
    for at in range(count):
        prepared()
        if FAULTS[fault] == KILL:
            assert killed_at(bundle, at, lambda: build(bundle))
        else:
            with faulty_disk(bundle, at, FAULTS[fault]), suppress(OutputError, OSError):
                build(bundle)
        states.append(state(bundle))
        assert states[-1] in (before, "new"), f"operation {at}"
        assert build(bundle, replace(REQUEST, force=False)).record.file.bytes == 3
        assert state(bundle) == (before if states[-1] == before and before else "new")
        assert names(bundle) == {f"{NETWORK}.plan", f"{NETWORK}.json"}, "nothing is left"
    assert {before, "new"} == set(states)


def test_a_plan_that_lacks_its_final_name_only_is_loaded_and_named(bundle: Path, content: list[str]) -> None:
    build(bundle)
    content[0] = "new"
    seen = operations(bundle, lambda: build(bundle))
    content[0] = "newer"
    assert killed_at(bundle, max(i for i, op in enumerate(seen) if op.startswith("os.rename")), lambda: build(bundle))
    assert new_plan_path(bundle, TARGET, NETWORK).read_text() == "newer"
    assert plan_path(bundle, TARGET, NETWORK).read_text() == "new"
    assert state(bundle) == "newer"
    assert build(bundle, replace(REQUEST, force=False)).reason is None
    assert plan_path(bundle, TARGET, NETWORK).read_text() == "newer"
    assert names(bundle) == {f"{NETWORK}.plan", f"{NETWORK}.json"}


def test_a_place_that_cannot_be_written_is_told_before_anything_is_built(bundle: Path, content: list[str]) -> None:
    (bundle / "plans").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match=r"image_projection\.plan cannot be written") as caught:
        build(bundle)
    assert "a part of the path is a file" in caught.value.hint
