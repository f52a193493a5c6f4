"""`instantrt bench identity`: face conditions, likeness in pairs, and the verdict with its margin.

Nano's pictures show no faces. Where a test is about likeness, both systems' pictures are replaced by portraits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from instantrt import GenerateRequest, GenerateResult, InstantID
from instantrt.cli import main
from instantrt.conditioning.conditions import Conditions
from instantrt.conditioning.face import Face, FaceStage
from instantrt.conditioning.framing import frame_photo
from instantrt.conditioning.photo import decode_photo
from instantrt.engine.openvino import import_openvino, kept
from instantrt_bench.cases.manifest import default_manifest
from instantrt_bench.identity.face_conditions import FaceConditions
from instantrt_bench.identity.judges.judge import Judge, faceres_judge
from instantrt_bench.identity.pairs import IdentityLimits, summarise_identity
from instantrt_bench.identity.panel import Panel, landmark_error
from instantrt_bench.reference.pipeline import Reference, ReferenceInputs, ReferenceResult
from instantrt_bench.results.files import ResultFile, ScenarioResult, SystemResult, read_results
from instantrt_bench.results.systems import REFERENCE_EAGER
from randomness import fresh_rng

RUNTIME = "runtime-onnxruntime"
SHORT = ("--seeds", 1, "--steps", 4)
JUDGES = [Judge("far", True, lambda *_: np.ones(2, np.float32)), Judge("own", False, lambda *_: np.ones(2, np.float32))]

Picture = npt.NDArray[np.uint8]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The command sets torch's threads for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def identity(bundle: Path, checkpoint: Path, out: Path, *more: object) -> int:
    arguments = [bundle, "--checkpoint", checkpoint, "--threads", 1, "--out", out, "--insightface", out.parent, *more]
    return main(["bench", "identity", *map(str, arguments)])


def test_on_nano_conditions_are_checked_and_likeness_is_honestly_not_judged(
    nano_bundle: Path, nano_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "identity.json"
    assert identity(nano_bundle, nano_checkpoint, out, *SHORT, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    results = read_results(out, "identity")
    assert summary == results.summary
    assert (summary["verdict"], summary["identity_delta"]) == ("not judged", None)
    assert "No face was detected in 4 of 4 pictures" in summary["statement"]
    conditions = [s for s in results.scenarios if "conditions_of" in s.parameters]
    assert [s.parameters["conditions_of"] for s in conditions] == ["astronaut", "officer"]
    for scenario in conditions:
        assert scenario.comparison["within_limits"]
        assert 0 < scenario.comparison["tokens_error"] < 1e-5  # two implementations
        assert scenario.comparison["embedding_norm"] == pytest.approx(1.4, abs=0.1)  # dlib's, not normalised
    assert {(tmp_path / p).is_file() for s in results.scenarios[2:] for p in s.comparison["pictures"].values()} == {
        True
    }


def test_a_target_told_to_compute_in_bf16_is_judged_as_such(
    nano_bundle: Path, nano_checkpoint: Path, tmp_path: Path
) -> None:
    if "BF16" not in kept(import_openvino().Core).get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU does not compute in bf16")
    out, target = tmp_path / "identity.json", ("--target", "openvino", "--precision-hint", "bf16")
    assert identity(nano_bundle, nano_checkpoint, out, *SHORT, *target) == 0
    conditions = [s for s in read_results(out).scenarios if "conditions_of" in s.parameters]
    assert conditions
    for scenario in conditions:
        assert list(scenario.systems) == ["runtime-openvino-bf16"]
        assert 1e-4 < scenario.comparison["tokens_error"] < scenario.comparison["limit"]


@pytest.mark.parametrize("place", ["face stage", "projection"])
def test_an_embedding_that_is_normalised_when_it_must_not_be_is_found(
    nano_bundle: Path,
    nano_checkpoint: Path,
    tmp_path: Path,
    portraits: dict[str, Picture],
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """Planted where photos become embeddings, or where embeddings become face tokens; all options at defaults.

    Both systems' pictures are one and the same, so nothing shows in them.
    """
    embed, tokens = FaceStage.embed, Conditions.face_tokens

    def normalised_embed(self: FaceStage, photo: Picture, face: Face) -> npt.NDArray[np.float32]:
        embedding = embed(self, photo, face)
        return embedding / np.linalg.norm(embedding)

    def normalised_tokens(self: Conditions, embedding: npt.NDArray[Any], guidance_batch: int) -> npt.NDArray[Any]:
        return tokens(self, embedding / np.linalg.norm(embedding), guidance_batch)

    if place == "face stage":
        monkeypatch.setattr(FaceStage, "embed", normalised_embed)
    else:
        monkeypatch.setattr(Conditions, "face_tokens", normalised_tokens)
    replace_pictures(monkeypatch, lambda _: portraits["astronaut"], lambda _: portraits["astronaut"])
    out = tmp_path / "identity.json"
    assert identity(nano_bundle, nano_checkpoint, out) == 3
    summary = read_results(out).summary
    assert summary["verdict"] == "fail"
    assert list(summary["failures"]) == ["conditions/photo=astronaut", "conditions/photo=officer"]
    said = " ".join(text for why in summary["failures"].values() for text in why)
    assert "face tokens" in said
    assert ("it was normalised" in said) == (place == "face stage")


def make_no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both systems give a black picture at once."""
    black = np.zeros((128, 128, 3), np.uint8)
    replace_pictures(monkeypatch, lambda _: black, lambda _: black)


def replace_pictures(
    monkeypatch: pytest.MonkeyPatch, ours: Callable[[int], Picture], theirs: Callable[[int], Picture]
) -> None:
    """Let both systems give these pictures by seed, after all that comes before the networks."""

    def run(self: InstantID, request: GenerateRequest, **_: Any) -> GenerateResult:
        prepared, pixels = self.prepare(request), ours(request.seed)[None]
        nothing = np.zeros((1, 4, 1, 1), np.float32)
        return GenerateResult(pixels, nothing, request.seed, prepared.identity.keypoints, (), None)  # type: ignore[arg-type]

    def generate(self: Reference, inputs: ReferenceInputs, **_: Any) -> ReferenceResult:
        nothing = np.zeros((1, 4, 1, 1), np.float32)
        return ReferenceResult(theirs(inputs.seed)[None], nothing, None, {}, 0.0, 0.0)

    monkeypatch.setattr(InstantID, "run", run)
    monkeypatch.setattr(Reference, "generate", generate)


@pytest.fixture(scope="module")
def portraits(nano_bundle: Path) -> dict[str, Picture]:
    """The default photos as pictures of 128x128 pixels, framed as a request frames them."""
    manifest, framed = default_manifest(), {}
    with InstantID.load(nano_bundle, threads=1) as runtime:
        for entry in manifest.photos:
            photo = decode_photo(manifest.file(entry.photo)).pixels
            box = runtime.faces.find(photo, "photo").face.box
            framed[entry.id] = frame_photo(photo.shape[1], photo.shape[0], box, 128, 128).apply(photo, 128, 128)
    return framed


@pytest.fixture
def one_photo(tmp_path: Path, astronaut: Picture) -> Path:
    Image.fromarray(astronaut).save(tmp_path / "astronaut.png")
    path = tmp_path / "manifest.csv"
    path.write_text("id,photo,licence,prompt\nastronaut,astronaut.png,public domain,\nnoir,,,film noir portrait\n")
    return path


def varied(picture: Picture, seed: int, system: int) -> Picture:
    """Light of the seed, and a little noise of the system."""
    rng = np.random.default_rng([seed, system])
    light = picture * np.random.default_rng(seed).uniform(0.7, 1.2) + rng.normal(0, 1.5, picture.shape)
    return np.uint8(np.clip(light, 0, 255))


def judged(out: Path) -> tuple[dict[str, Any], ResultFile]:
    results = read_results(out)
    return results.summary, results


SEEDS = ("--seeds", *range(1, 9))


def test_alike_portraits_are_not_worse(
    nano_bundle: Path,
    nano_checkpoint: Path,
    one_photo: Path,
    tmp_path: Path,
    portraits: dict[str, Picture],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    person = portraits["astronaut"]
    replace_pictures(monkeypatch, lambda s: varied(person, s, 1), lambda s: varied(person, s, 2))
    out = tmp_path / "identity.json"
    code = identity(nano_bundle, nano_checkpoint, out, "--manifest", one_photo, *SEEDS)
    summary, results = judged(out)
    assert (code, summary["verdict"]) == (0, "pass"), summary
    assert summary["statement"].startswith("not worse than the reference by more than 0.02 in cosine (faceres")
    low, high = summary["identity_delta_interval"]
    assert -0.02 <= low <= summary["identity_delta"] <= high
    assert {j: found["pairs"] for j, found in summary["judges"].items()} == {"faceres": 8, "bundle-encoder": 8}
    assert summary["judges"]["faceres"]["mean_similarity_runtime"] > 0.7
    assert (summary["detection"]["runtime"], summary["detection"]["reference"]) == (8, 8)
    assert summary["landmark_error"]["mean_runtime"] < 0.1  # framed as asked for
    samples = results.scenarios[-1].systems[RUNTIME].samples
    assert samples["faces"] == [1]
    assert samples["distance"]["faceres"][0] > 0


def test_another_person_in_the_runtimes_pictures_is_worse(
    nano_bundle: Path,
    nano_checkpoint: Path,
    one_photo: Path,
    tmp_path: Path,
    portraits: dict[str, Picture],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace_pictures(
        monkeypatch, lambda s: varied(portraits["officer"], s, 1), lambda s: varied(portraits["astronaut"], s, 2)
    )
    out = tmp_path / "identity.json"
    assert identity(nano_bundle, nano_checkpoint, out, "--manifest", one_photo, *SEEDS) == 3
    summary, _ = judged(out)
    assert summary["verdict"] == "fail"
    assert {"judge=faceres", "judge=bundle-encoder"} <= set(summary["failures"])
    assert summary["identity_delta"] < -0.3
    assert summary["statement"].startswith("worse than the reference by more than 0.02")


def test_faces_that_only_the_reference_shows_fail_though_likeness_cannot_be_judged(
    nano_bundle: Path,
    nano_checkpoint: Path,
    one_photo: Path,
    tmp_path: Path,
    portraits: dict[str, Picture],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grey = np.full((128, 128, 3), 128, np.uint8)
    replace_pictures(monkeypatch, lambda _: grey, lambda s: varied(portraits["astronaut"], s, 2))
    out = tmp_path / "identity.json"
    assert identity(nano_bundle, nano_checkpoint, out, "--manifest", one_photo, "--seeds", 1, 2) == 3
    summary, _ = judged(out)
    assert list(summary["failures"]) == ["detection"]
    assert summary["detection"]["only_reference"] == 2
    assert summary["judges"]["faceres"]["verdict"] == "not judged"


def test_a_failing_system_and_an_interrupt_are_reported(
    nano_bundle: Path, nano_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_no_pictures(monkeypatch)

    def failing(self: Reference, inputs: ReferenceInputs, **_: Any) -> ReferenceResult:
        if inputs.seed == 2:
            raise KeyboardInterrupt
        raise MemoryError("no room")

    monkeypatch.setattr(Reference, "generate", failing)
    out = tmp_path / "identity.json"
    assert identity(nano_bundle, nano_checkpoint, out, "--seeds", 1, 2) == 130
    summary, results = judged(out)
    assert len(results.scenarios) == 3  # both photos' conditions and one case
    last = results.scenarios[-1]
    assert last.systems[REFERENCE_EAGER].error == "MemoryError: no room"
    assert last.systems[RUNTIME].status == "ok"
    assert summary["failures"] == {last.id: [f"{REFERENCE_EAGER}: MemoryError: no room"]}


def test_a_photo_without_a_face_fails_and_says_so(
    nano_bundle: Path, nano_checkpoint: Path, one_photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_no_pictures(monkeypatch)
    Image.new("RGB", (200, 200), (90, 120, 90)).save(tmp_path / "astronaut.png")
    out = tmp_path / "identity.json"
    assert identity(nano_bundle, nano_checkpoint, out, "--manifest", one_photo, *SHORT) == 3
    failures = judged(out)[0]["failures"]
    assert len(failures) == 2
    assert all("no face was found in the face photo" in text for why in failures.values() for text in why)


# What follows needs no pictures: the verdict from figures.


def pair(photo: str, index: int, ours: float | None, theirs: float | None) -> ScenarioResult:
    def system(cosine: float | None) -> SystemResult:
        if cosine is None:
            return SystemResult("ok", samples={"faces": [0], "similarity": {}, "distance": {}, "landmark_error": []})
        both = {"far": [cosine], "own": [cosine]}
        samples = {"faces": [1], "similarity": both, "distance": both, "landmark_error": [0.1]}
        return SystemResult("ok", samples=samples)

    systems = {RUNTIME: system(ours), REFERENCE_EAGER: system(theirs)}
    return ScenarioResult(f"photo={photo}/{index}", {"photo": photo}, systems)


def summary_of(pairs: list[ScenarioResult], limits: IdentityLimits | None = None, *, complete: bool = True) -> Any:
    return summarise_identity(pairs, JUDGES, {}, limits or IdentityLimits(), RUNTIME, complete=complete)


def pairs_with(differences: npt.NDArray[np.float64], photos: int = 1) -> list[ScenarioResult]:
    rng = fresh_rng()
    return [
        pair(f"p{i % photos}", i, float(base + d), float(base))
        for i, (base, d) in enumerate(zip(rng.uniform(0.4, 0.7, len(differences)), differences, strict=True))
    ]


def test_the_verdict_depends_on_where_the_interval_lies() -> None:
    noise = fresh_rng().normal(0, 0.005, 40)
    fine = summary_of(pairs_with(noise - noise.mean()))
    assert fine["verdict"] == "pass"
    assert fine["identity_delta"] == pytest.approx(0, abs=1e-9)
    worse = summary_of(pairs_with(noise - noise.mean() - 0.05))
    assert (worse["verdict"], worse["judges"]["far"]["verdict"]) == ("fail", "worse")
    wide = np.resize([-0.2, 0.16], 40)
    assert summary_of(pairs_with(wide))["verdict"] == "undecided"
    assert summary_of(pairs_with(wide), IdentityLimits(delta=0.3))["verdict"] == "pass"
    assert summary_of(pairs_with(np.zeros(4)))["verdict"] == "undecided"  # too few
    assert summary_of([pair("p", i, None, None) for i in range(40)])["verdict"] == "not judged"
    assert summary_of(pairs_with(noise), complete=False)["verdict"] == "interrupted"


def test_photos_are_resampled_whole_where_there_are_enough() -> None:
    """The same differences in every pair of a photo: resampling pairs would claim to know far more than it does."""
    by_photo = fresh_rng().normal(0, 0.05, 12)
    clustered = summary_of(pairs_with(np.tile(by_photo, 10), photos=12))["judges"]["far"]
    few = summary_of(pairs_with(np.tile(by_photo, 10), photos=9))["judges"]["far"]
    assert (clustered["resampled"], few["resampled"]) == ("photos", "pairs")
    widths = [found["identity_delta_interval"][1] - found["identity_delta_interval"][0] for found in (clustered, few)]
    assert widths[0] > 2 * widths[1]


def test_only_pairs_in_which_both_show_a_face_count() -> None:
    pairs = [*pairs_with(np.zeros(18)), pair("p0", 18, 0.9, None), pair("p0", 19, None, 0.1)]
    summary = summary_of(pairs)
    assert summary["judges"]["far"]["pairs"] == 18
    assert summary["identity_delta"] == 0.0
    detection = summary["detection"]
    assert (detection["only_runtime"], detection["only_reference"], detection["loss"]) == (1, 1, 0.0)
    lost = summary_of([*pairs_with(np.zeros(18)), pair("p0", 18, None, 0.5), pair("p0", 19, None, 0.5)])
    assert lost["failures"] == {"detection": ["faces in 18 pictures, 20 of the reference"]}
    allowed = summary_of([*pairs_with(np.zeros(19)), pair("p0", 19, None, 0.5)])  # exactly 5 %
    assert allowed["verdict"] == "pass"


def test_conditions_are_judged_by_the_precision() -> None:
    fine = FaceConditions(20.0, 20.0, 1e-5, 9e-5, 1e-4)
    assert fine.to_json()["within_limits"]
    for broken in ({"embedding_error": 2e-4}, {"tokens_error": float("nan")}):
        json.dumps(replace(fine, **broken).to_json(), allow_nan=False)
        assert len(replace(fine, **broken).failures) == 1
    normalised = replace(fine, embedding_norm=1.0, embedding_error=0.95)
    assert "it was normalised" in normalised.failures[0]


def test_landmark_errors_are_in_eye_distances(nano_bundle: Path, astronaut: Picture) -> None:
    asked = np.array([[10, 10], [30, 10], [20, 20], [12, 30], [28, 30]], np.float32)
    assert landmark_error(asked, asked) == 0.0
    assert landmark_error(asked + np.float32([3, 4]), asked) == pytest.approx(5 / 20)
    with InstantID.load(nano_bundle, threads=1) as runtime:
        panel = Panel(runtime.faces.find, [faceres_judge()])
        person = panel.photo(astronaut)
        keypoints = runtime.faces.find(astronaut, "photo").face.keypoints
        same = panel.picture(astronaut, person, keypoints)
        assert (same.landmark_error, same.similarity["faceres"]) == (0.0, pytest.approx(1.0))
        shifted = cv2.warpAffine(astronaut, np.float32([[1, 0, 12], [0, 1, 0]]), astronaut.shape[1::-1])
        eyes = np.linalg.norm(keypoints[1] - keypoints[0])
        assert panel.picture(shifted, person, keypoints).landmark_error == pytest.approx(12 / eyes, abs=0.03)
