"""Manifests of photos and prompts: both formats, and what is wrong with the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from instantrt.conditioning.photo import decode_photo
from instantrt.errors import InstantRTError, RequestError
from instantrt_bench.cases.cases import Settings, cases_of
from instantrt_bench.cases.manifest import Manifest, ManifestError, default_manifest, read_manifest
from instantrt_bench.fidelity.arguments import DEFAULT_SAMPLERS

PHOTO = {"id": "me", "photo": "me.png", "licence": "own photo"}
PROMPT = {"id": "noir", "prompt": "film noir portrait"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8)).save(tmp_path / "me.png")
    return tmp_path


def written(folder: Path, **changes: Any) -> Path:
    data = {"format": 1, "photos": [PHOTO], "prompts": [PROMPT], **changes}
    path = folder / "manifest.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_the_default_manifest_names_two_public_domain_portraits() -> None:
    manifest = default_manifest()
    assert len(manifest.photos) == len(manifest.prompts) == 2
    assert all(photo.licence.startswith("public domain") and photo.source for photo in manifest.photos)
    for photo in manifest.photos:
        assert min(decode_photo(manifest.file(photo.photo)).pixels.shape[:2]) >= 512
    facts = manifest.facts()["photos"]
    assert len({fact["sha256"] for fact in facts.values()}) == 2


def test_json_and_csv_say_the_same(folder: Path) -> None:
    path = folder / "manifest.csv"
    path.write_text(
        "\ufeffid,photo,licence,source,prompt,negative_prompt,style\n"
        'me,me.png,"own photo, 2024",home,,,\n'
        'noir,,,,"film, ""noir""",blurry,Neon\n',
        encoding="utf-8",
    )
    as_json = written(
        folder,
        photos=[PHOTO | {"licence": "own photo, 2024", "source": "home"}],
        prompts=[{"id": "noir", "prompt": 'film, "noir"', "negative_prompt": "blurry", "style": "Neon"}],
    )
    found, expected = read_manifest(path), read_manifest(as_json)
    assert (found.photos, found.prompts) == (expected.photos, expected.prompts)
    assert found.file("me.png") == folder / "me.png"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "format 1"),
        ({"fotos": []}, "fotos"),
        ({"photos": []}, "no photos"),
        ({"prompts": []}, "no prompts"),
        ({"photos": {"id": "me"}}, "not a list"),
        ({"photos": ["me.png"]}, "not a list of objects"),
        ({"photos": [{"id": "me", "photo": "me.png"}]}, "photo 1.*licence"),
        ({"photos": [PHOTO | {"licence": "  "}]}, "licence"),
        ({"photos": [PHOTO | {"licence": 3}]}, "licence"),
        ({"photos": [PHOTO, PHOTO]}, "must differ"),
        ({"photos": [PHOTO | {"id": "a/b"}]}, "a/b"),
        ({"photos": [PHOTO | {"photo": "you.png"}]}, "you.png"),
        ({"photos": [PHOTO | {"pose": "pose.png"}]}, "pose.png"),
        ({"photos": [PHOTO | {"photo": "package:no_such_package/a.png"}]}, "not installed"),
        ({"photos": [PHOTO | {"photo": "package:skimage/data/no.png"}]}, "does not carry"),
        ({"photos": [PHOTO | {"photo": "package:../etc/passwd"}]}, "not installed"),
        ({"photos": [PHOTO | {"licens": "mine"}]}, "photo 1.*unknown fields"),
        ({"prompts": [PROMPT | {"prompt": ""}]}, "prompt 1.*prompt"),
        ({"prompts": [PROMPT | {"style": "Cubism"}]}, "Cubism"),
    ],
)
def test_a_wrong_manifest_says_what_is_wrong(folder: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ManifestError, match=rf"(?s){said}"):
        read_manifest(written(folder, **changes))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,photo,licence\nme,me.png\n", "line 2.*cells"),
        ("id,photo,licence\nme,me.png,mine,more\n", "line 2.*cells"),
        ("id,photo,licence,prompt\nme,me.png,mine,a portrait\n", "either a photo or a prompt"),
        ("id,photo,licence,prompt\nme,,,\n", "either a photo or a prompt"),
        ("id,photo,license\nme,me.png,mine\n", "unknown columns.*license"),
        ("", "no photos"),
    ],
)
def test_a_wrong_csv_says_what_is_wrong(folder: Path, text: str, said: str) -> None:
    path = folder / "manifest.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=rf"(?s){said}"):
        read_manifest(path)


@pytest.mark.parametrize("name", ["absent.json", "absent.csv", "manifest.yaml", "manifest"])
def test_unreadable_manifests(tmp_path: Path, name: str) -> None:
    with pytest.raises(ManifestError, match=name):
        read_manifest(tmp_path / name)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200), suffix=st.sampled_from([".json", ".csv"]))
def test_any_bytes_give_a_manifest_or_a_clear_error(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"any{suffix}"
    path.write_bytes(content)
    with pytest.raises(InstantRTError):
        read_manifest(path)


def test_cases_are_every_combination_once(folder: Path) -> None:
    manifest = read_manifest(
        written(
            folder,
            photos=[PHOTO, PHOTO | {"id": "posed", "pose": "me.png"}],
            prompts=[PROMPT, PROMPT | {"id": "neon", "negative_prompt": "grey", "style": "Neon"}],
        )
    )
    cases = cases_of(manifest, [3, 4, 3], DEFAULT_SAMPLERS, Settings(steps=7, size=(128, 192)))
    assert len({case.id for case in cases}) == len(cases) == 2 * 2 * 2 * len(DEFAULT_SAMPLERS)
    first, last = cases[0].request, cases[-1].request
    assert (first.negative_prompt, first.style, first.pose) == (None, None, None)
    assert (last.negative_prompt, last.style, last.pose) == ("grey", "Neon", folder / "me.png")
    assert {(c.request.steps, c.request.width, c.request.height) for c in cases} == {(7, 128, 192)}
    assert cases[0].parameters["licence"] == "own photo"


def test_settings_that_no_request_can_have_are_mistakes(folder: Path) -> None:
    manifest: Manifest = read_manifest(written(folder))
    with pytest.raises(RequestError, match="steps"):
        cases_of(manifest, [1], ["euler"], Settings(steps=1))
    with pytest.raises(RequestError, match="sampler"):
        cases_of(manifest, [1], ["runge"], Settings())
