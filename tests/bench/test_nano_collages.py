"""The collages behind the model card's figure on two faces close together."""

from __future__ import annotations

import itertools

from doubles.nano_faces import nano_face_stage
from instantrt.conditioning.cached_faces import CachedFaceStage
from instantrt_bench.nano import collages as module
from instantrt_bench.nano.collages import WIDTHS, both_counted, collages
from instantrt_nano.training.people import PEOPLE


def test_every_two_people_are_joined_in_every_way():
    made = list(collages())
    assert {collage.people for collage in made} == set(itertools.permutations(PEOPLE, 2))
    assert len(made) == 12 * 4 * 3 * 2
    assert {collage.pixels.shape[1] > collage.pixels.shape[0] for collage in made} == {True, False}


def test_both_faces_are_counted_by_width(monkeypatch):
    few = [collage for collage in collages() if collage.people == ("astronaut", "hopper") and collage.size == 1]
    monkeypatch.setattr(module, "collages", lambda: iter(few))
    counts = both_counted(CachedFaceStage(nano_face_stage()))
    assert {width: of for width, (_, of) in counts.items()} == dict.fromkeys(WIDTHS, 2)
    assert counts[3.4] == (2, 2)
