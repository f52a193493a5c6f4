"""The trained nano checkpoint through the runtime: a quick part of the report, and the report's own parts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instantrt import InstantID
from instantrt.cli.command import ExitStatus
from instantrt_bench.fidelity.pair import compare
from instantrt_bench.identity.face_conditions import CheckpointEncoder
from instantrt_bench.identity.judges.judge import encoder_judge, faceres_judge
from instantrt_bench.nano import __main__ as command
from instantrt_bench.nano import report
from instantrt_bench.nano.cases import asked, unseen, with_options
from instantrt_bench.nano.evaluate import Evaluation, Seen, centre_shifts_px, figures
from instantrt_bench.nano.sheet import TILE_PX
from instantrt_bench.nano.style_check import StyleCheck
from instantrt_bench.reference.pipeline import Reference
from instantrt_export.checkpoint import Checkpoint
from instantrt_nano.maker import TRAINED
from instantrt_nano.training.people import PEOPLE
from instantrt_nano.training.styles import STYLES

MIN_PSNR_DB = 50.0
POSES, STEPS = 1, 10


@pytest.fixture(scope="module")
def runtime(trained_bundle: Path) -> Iterator[InstantID]:
    with InstantID.load(trained_bundle, threads=1) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def styles() -> StyleCheck:
    return StyleCheck(*report._labelled(10, seed=1))


@pytest.fixture(scope="module")
def evaluation(runtime: InstantID, styles: StyleCheck) -> Evaluation:
    encoder = encoder_judge(CheckpointEncoder(Checkpoint.open(str(TRAINED))).embed)
    return Evaluation(runtime, encoder, faceres_judge(), styles)


@pytest.fixture(scope="module")
def seen(evaluation: Evaluation) -> list[Seen]:
    """Everybody in every style."""
    return [evaluation.see(case) for case in asked(POSES, STEPS)]


def test_people_are_found_recognised_placed_and_painted_as_asked(seen, evaluation):
    found = figures(seen, evaluation.judges)
    assert found["pictures"] == POSES * len(PEOPLE) * len(STYLES)
    assert found["detection_rate"] >= 0.9
    assert found["right_person_rate"] >= 0.85
    assert found["same_identity_distance_median"] <= 0.4
    assert found["other_identity_distance_min_median"] >= 0.6
    assert found["face_centre_error_px_median"] <= 1.5
    assert found["landmark_error_px_median"] <= 3
    assert found["style_recognised_rate"] >= 0.85


def test_the_runtime_draws_what_the_reference_draws(runtime):
    reference = Reference.load(Checkpoint.open(str(TRAINED)), threads=1)
    case = next(asked(1, STEPS))
    assert compare(runtime, reference, case.request).psnr_db >= MIN_PSNR_DB


def test_an_unseen_face_is_handled(evaluation):
    (one,) = [evaluation.see(case) for case in unseen(1, STEPS)]
    assert one.detected
    assert one.picture.std() > 20


def test_without_identitynet_faces_lie_elsewhere_and_without_the_adapter_they_are_others(evaluation):
    photos = [case for case in asked(2, STEPS) if case.style == "photo"]
    placed = [evaluation.see(case) for case in photos]
    free = [evaluation.see(case) for case in with_options(photos, identity_strength=0.0)]
    others = [evaluation.see(case) for case in with_options(photos, adapter_strength=0.0)]
    assert all(one.detected for one in placed)
    assert sum(one.detected for one in free) >= 0.75 * len(free)
    assert np.mean(centre_shifts_px(placed, free, min_offset_px=0)) > 3
    encoder = evaluation.judges[0]
    distances = [np.mean([one.same(encoder) for one in group if one.detected]) for group in (placed, others)]
    assert distances[0] < distances[1] - 0.15


def test_the_style_check_recognises_filtered_photos(styles):
    assert styles.accuracy(*report._labelled(5, seed=7)) >= 0.95


def test_figures_count_faces_and_styles():
    case = next(asked(1, STEPS))
    picture = np.zeros((128, 128, 3), np.uint8)
    near = {"astronaut": 0.2, "hopper": 0.7, "unseen": 0.1}
    good = Seen(case, picture, {"encoder": near}, (64, 64), 1.0, 2.0, "photo")
    wrong = replace(good, distances={"encoder": {**near, "hopper": 0.1}}, style="noir")
    none = replace(good, distances={}, centre=None, centre_error_px=None, landmark_error_px=None)
    found = figures([good, wrong, none, none], ["encoder"])
    assert found["detection_rate"] == 0.5
    assert found["right_person_rate"] == 0.5
    assert found["style_recognised_rate"] == 0.75
    assert found["same_identity_distance_median"] == 0.2
    assert found["same_identity_distance_mean"] == 0.2
    assert found["other_identity_distance_min_median"] == 0.4
    assert figures([none], ["encoder"]) == {"pictures": 1, "detection_rate": 0.0}


def test_shifts_are_measured_on_off_centre_faces_that_both_show():
    case = next(asked(1, STEPS))
    blank = np.zeros((128, 128, 3), np.uint8)

    def at(*centre: float) -> Seen:
        return Seen(case, blank, {}, centre or None, 0.0, 0.0, "photo")

    assert centre_shifts_px([at(64, 64), at(74, 64), at(74, 64)], [at(60, 64), at(64, 64), at()], 6) == [10.0]


def test_the_command_writes_figures_and_sheets(trained_bundle, tmp_path, monkeypatch, capsys):
    # One pose in one style: the whole report's way through, in seconds.
    monkeypatch.setattr(report, "_variations", lambda poses: _few(poses))
    options = ["--out", str(tmp_path), "--poses", "1", "--steps", "4", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["nano", str(trained_bundle), *options])
    assert command.main() == 0
    facts = json.loads((tmp_path / "nano.json").read_text())
    for key in (
        "detection_rate",
        "same_identity_distance_median",
        "other_identity_distance_min_median",
        "landmark_error_px_median",
        "checkpoint_mb",
    ):
        assert facts[key] > 0, key
    assert facts["checkpoint_mb"] <= 25
    assert set(facts["by_style"]) == set(STYLES)
    for name, columns in (("nano.png", 1 + len(STYLES)), ("strengths.png", 1)):
        with Image.open(tmp_path / name) as sheet:
            assert sheet.width > 200
            assert sheet.width > columns * TILE_PX
    assert "nano.json" in capsys.readouterr().out


def test_the_command_reports_a_mistake(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["nano", str(tmp_path / "absent")])
    assert command.main() == ExitStatus.USER_ERROR
    assert "absent" in capsys.readouterr().err


_ALL = report._variations


def _few(poses: int) -> dict[str, list]:
    return {name: cases[:1] for name, cases in _ALL(poses).items()}
