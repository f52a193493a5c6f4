"""Nano's people as a manifest that the benchmarks read."""

from __future__ import annotations

from pathlib import Path

import pytest

from instantrt.conditioning.photo import decode_photo
from instantrt_bench.cases.manifest import read_manifest
from instantrt_bench.nano.manifest import POSES, main


def test_everybody_is_there_in_every_pose_with_a_licence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "people")]) == 0
    manifest = read_manifest(Path(capsys.readouterr().out.strip()))
    people = {photo.id.rpartition("-")[0] for photo in manifest.photos}
    assert len(people) >= 4
    assert len(manifest.photos) == POSES * len(people)
    assert {"astronaut", "hopper"} < people
    for photo in manifest.photos:
        assert "NASA" in photo.licence or "Navy" in photo.licence
        assert decode_photo(manifest.file(photo.photo)).pixels.shape == (576, 576, 3)
        assert decode_photo(manifest.file(photo.pose)).pixels.ndim == 3
    assert [prompt.id for prompt in manifest.prompts] == ["photo", "noir"]
