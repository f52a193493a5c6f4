"""The face stage: against insightface on random networks, against dlib on real photos, and where it must give up."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import skimage.transform
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from doubles.nano_faces import Dims, nano_face_stage, session
from instantrt.conditioning.alignment import TEMPLATES, aligned_crop, similarity
from instantrt.conditioning.detectors import DETECTORS, overlap, suppress
from instantrt.conditioning.face import Face, FaceStage
from instantrt.conditioning.photo import decode_photo
from instantrt.conditioning.views import View, Window, letterbox, view_of
from instantrt.errors import NoFaceError
from instantrt_export.faces.graphs import detector_graph, encoder_graph
from randomness import fresh_rng

# What insightface and scikit-image say about their own calls into other packages is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def _package_file(package: str, path: str) -> Path:
    """A data file of an installed package that is not imported: its import needs what it does not declare."""
    spec = importlib.util.find_spec(package)
    assert spec is not None, f"the dev extra's {package} is not installed"
    return Path(spec.submodule_search_locations[0]) / path


# ---- random networks of the real topologies, for insightface and for us


class Scrfd(torch.nn.Module):
    """SCRFD's outputs: scores, boxes and keypoints at strides 8, 16, 32, two anchors a cell, one row each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 12, 16, 8, 4)
        self.down = torch.nn.ModuleList(torch.nn.Conv2d(12, 12, 4, 2, 1) for _ in range(2))
        self.heads = torch.nn.ModuleList(torch.nn.Conv2d(12, 2 * width, 3, 1, 1) for width in (1, 4, 10))
        with torch.no_grad():
            self.stem.weight *= 6
            self.heads[0].bias -= 2.5
            self.heads[0].weight *= 8
            self.heads[1].bias += 3  # boxes of several cells, which overlap

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        levels = [torch.relu(self.stem(image))]
        for down in self.down:
            levels.append(torch.relu(down(levels[-1])))
        raw = [[head(x).permute(0, 2, 3, 1).reshape(-1, head.out_channels // 2) for x in levels] for head in self.heads]
        return [torch.sigmoid(x) for x in raw[0]] + raw[1] + raw[2]


class ArcFace(torch.nn.Module):
    """ArcFace's input and output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 7, 4)
        self.head = torch.nn.Linear(8 * 27 * 27, 512)

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.conv(faces)).flatten(1))


def _random_onnx(module: torch.nn.Module, example: torch.Tensor, path: Path) -> Path:
    dynamic = ({0: torch.export.Dim("batch")},) if len(example) > 1 else None
    program = torch.onnx.export(
        module.eval(), (example,), dynamo=True, input_names=["input.1"], dynamic_shapes=dynamic, verbose=False
    )
    program.save(path)
    return path


@pytest.fixture(scope="module")
def scrfd_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(7)
    return _random_onnx(Scrfd(), torch.zeros(1, 3, 640, 640), tmp_path_factory.mktemp("scrfd") / "model.onnx")


@pytest.fixture(scope="module")
def arcface_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(8)
    return _random_onnx(ArcFace(), torch.zeros(2, 3, 112, 112), tmp_path_factory.mktemp("arcface") / "model.onnx")


@pytest.mark.parametrize("shape", [(512, 512), (700, 1280), (1280, 853), (333, 97), (640, 641)])
def test_scrfd_finds_what_insightface_finds(scrfd_path, shape):
    from insightface.model_zoo.scrfd import SCRFD

    theirs = SCRFD(str(scrfd_path))
    theirs.prepare(-1, input_size=(640, 640))
    photo = cv2.resize(fresh_rng().integers(0, 256, (40, 40, 3), np.uint8), shape[::-1])
    boxes, keypoints = theirs.detect(photo[..., ::-1])
    ours = DETECTORS["scrfd"].detect(session(detector_graph(scrfd_path, "scrfd", 640)), photo, 640)
    assert len(boxes) > 5
    np.testing.assert_allclose(ours.boxes, boxes[:, :4], atol=2e-3)
    np.testing.assert_allclose(ours.scores, boxes[:, 4], atol=1e-5)
    np.testing.assert_allclose(ours.keypoints, keypoints, atol=2e-3)


def test_non_maximum_suppression_of_scrfd_drops_boxes(scrfd_path):
    """The comparison above means something: the random network's boxes do overlap."""
    run = session(detector_graph(scrfd_path, "scrfd", 640))
    photo = cv2.resize(np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8), (640, 640))
    scrfd = DETECTORS["scrfd"]
    above = sum((head[:, 0] >= 0.5).sum() for name, head in run({"image": photo[None]}).items() if "scores" in name)
    assert len(scrfd.detect(run, photo, 640)) < above / 2


def test_arcface_embeds_as_insightface_does(arcface_path):
    from insightface.app.common import Face as TheirFace
    from insightface.model_zoo.arcface_onnx import ArcFaceONNX
    from insightface.utils.face_align import norm_crop

    theirs = ArcFaceONNX(str(arcface_path))
    stage = FaceStage(
        Dims("scrfd", 640, "arcface", 112), _no_face, session(encoder_graph(arcface_path, "arcface", 112, 512))
    )
    photo = skimage.data.astronaut()
    rng = fresh_rng()
    for _ in range(20):
        angle, scale = rng.uniform(-0.8, 0.8), rng.uniform(0.5, 3)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        layout = np.array(TEMPLATES["arcface"].points) - 56
        keypoints = (layout @ turn.T + rng.uniform(50, 450, 2) + rng.normal(0, 2, (5, 2))).astype(np.float32)
        expected = norm_crop(photo, keypoints)
        crop = aligned_crop(photo, keypoints, TEMPLATES["arcface"])
        assert np.abs(crop.astype(int) - expected).max() <= 1
        wanted = theirs.get(photo[..., ::-1], TheirFace(kps=keypoints))
        got = stage.embed(photo, Face(np.zeros(4, np.float32), keypoints, 1.0))
        assert np.linalg.norm(got - wanted) <= 2e-3 * np.linalg.norm(wanted)


@given(
    npst.arrays(np.float64, (5, 2), elements=st.floats(-1000, 1000, width=32)),
    npst.arrays(np.float64, (5, 2), elements=st.floats(0, 112, width=32)),
)
def test_similarity_is_umeyamas(source, target):
    spread = np.linalg.svd(target - target.mean(0), compute_uv=False) if np.ptp(source) > 1 else [0, 0]
    reference = skimage.transform.SimilarityTransform()
    if min(spread) < 1 or np.std(source, 0).min() < 1 or not reference.estimate(source, target):
        return
    np.testing.assert_allclose(similarity(source, target), reference.params[:2], atol=1e-6 * (1 + np.abs(source).max()))


# ---- the small networks on real photos


@pytest.fixture(scope="module")
def stage() -> FaceStage:
    return nano_face_stage()


def _astronaut() -> np.ndarray:
    return decode_photo(skimage.data.astronaut()).pixels


def _hopper() -> np.ndarray:
    return decode_photo(_package_file("matplotlib", "mpl-data/sample_data/grace_hopper.jpg")).pixels


PORTRAITS = {"astronaut": _astronaut, "hopper": _hopper}


@pytest.fixture(scope="module")
def dlib_keypoints() -> Callable[[np.ndarray], np.ndarray]:
    """Five keypoints of the largest face, from dlib's own detector and its 68 landmarks."""
    import dlib

    detect = dlib.get_frontal_face_detector()
    models = _package_file("face_recognition_models", "models")
    predict = dlib.shape_predictor(str(models / "shape_predictor_68_face_landmarks.dat"))

    def keypoints(photo: np.ndarray) -> np.ndarray:
        box = max(detect(photo, 1), key=lambda rectangle: rectangle.area())
        points = np.array([[p.x, p.y] for p in predict(photo, box).parts()], float)
        return np.stack([points[36:42].mean(0), points[42:48].mean(0), *points[[30, 48, 54]]])

    return keypoints


def _brightened(photo: np.ndarray) -> np.ndarray:
    return np.clip(photo * 1.25, 0, 255).astype(np.uint8)


def _halved(photo: np.ndarray) -> np.ndarray:
    return cv2.resize(photo, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("portrait", PORTRAITS)
@pytest.mark.parametrize(("changed", "scale"), [(np.array, 1), (_brightened, 1), (_halved, 2)])
def test_eyes_lie_where_dlib_sees_them(stage, dlib_keypoints, portrait, changed, scale):
    photo = PORTRAITS[portrait]()
    face, count = stage.largest(changed(photo), "face photo")
    expected = dlib_keypoints(photo)
    eye_distance = np.linalg.norm(expected[0] - expected[1])
    errors = np.linalg.norm(face.keypoints * scale - expected, axis=1) / eye_distance
    assert count == 1
    assert errors[:2].max() < 0.06
    assert errors[2:].max() < 0.09
    assert (face.box[:2] < face.keypoints.min(0)).all()
    assert (face.box[2:] > face.keypoints.max(0)).all()


def test_one_person_is_near_and_two_are_far(stage):
    embeddings = {}
    for name, portrait in PORTRAITS.items():
        photo = portrait()
        face, _ = stage.largest(photo, "face photo")
        left, _, right, bottom = face.box.astype(int)
        crops = (photo, photo[: bottom + 60, max(0, left - 60) : right + 40], _halved(photo)[:, 10:])
        embeddings[name] = [_embed(stage, np.ascontiguousarray(crop)) for crop in crops]
    for crops in embeddings.values():
        assert max(_distance(a, b) for a in crops for b in crops) < 0.45
    assert min(_distance(a, b) for a in embeddings["astronaut"] for b in embeddings["hopper"]) > 0.6


def _embed(stage: FaceStage, photo: np.ndarray) -> np.ndarray:
    return stage.embed(photo, stage.largest(photo, "face photo")[0])


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b))


def test_a_large_noisy_photo_gives_the_same_embedding(stage):
    """Crops are averaged, not picked from single pixels."""
    photo = _hopper()
    large = cv2.resize(photo, None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC).astype(np.float64)
    noisy = np.clip(large + fresh_rng().normal(0, 25, large.shape), 0, 255).astype(np.uint8)
    face, _ = stage.largest(photo, "face photo")
    doubled = Face(face.box * 2, face.keypoints * 2, face.score)
    assert _distance(stage.embed(noisy, doubled), stage.embed(photo, face)) < 0.15


@pytest.mark.parametrize("portrait", PORTRAITS)
def test_faces_that_fill_a_128_px_frame(stage, portrait):
    """Few are missed, wherever the crop lies and however it is turned."""
    photo = PORTRAITS[portrait]()
    face, _ = stage.largest(photo, "face photo")
    rng = fresh_rng()
    found = 0
    for _ in range(40):
        crop, eyes = _close_up(photo, face.keypoints, rng)
        seen = stage.detect(crop)
        distance = np.linalg.norm(eyes[0] - eyes[1])
        found += bool(seen) and np.linalg.norm(seen[0].keypoints[:2] - eyes, axis=1).max() < 0.15 * distance
    assert found >= 37


def _close_up(photo: np.ndarray, keypoints: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A square of 2.6 to 4.2 eye distances around the face, turned by up to 12 degrees, at 128 px; and its eyes."""
    eye_distance = np.linalg.norm(keypoints[0] - keypoints[1])
    side = rng.uniform(2.6, 4.2) * eye_distance
    centre = keypoints.mean(0) + rng.uniform(-0.25, 0.25, 2) * eye_distance
    matrix = cv2.getRotationMatrix2D(centre.tolist(), rng.uniform(-12, 12), 384 / side)
    matrix[:, 2] += 192 - centre
    large = cv2.warpAffine(photo, matrix, (384, 384), borderMode=cv2.BORDER_REFLECT)
    eyes = (keypoints[:2] @ matrix[:, :2].T + matrix[:, 2]) / 3
    return cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA), eyes


def test_of_several_faces_the_largest_is_used(stage):
    """Two portraits side by side, the second with the larger face."""
    small, large = (cv2.resize(photo, (500, 600)) for photo in (_astronaut()[:300, 50:350], _hopper()[60:500, 40:480]))
    photo = np.hstack([small, large])
    face, count = stage.largest(photo, "face photo")
    alone, _ = stage.largest(large, "face photo")
    assert count == 2
    assert np.abs(face.keypoints - alone.keypoints - [500, 0]).max() < 12
    assert _distance(stage.embed(photo, face), stage.embed(large, alone)) < 0.2
    first, second = stage.detect(photo)
    assert first.area_px > second.area_px
    assert second.box[2] < 500 < first.box[0]


@pytest.mark.parametrize("role", ["face photo", "pose photo"])
def test_no_face(stage, role):
    noise = fresh_rng().integers(0, 256, (300, 400, 3), np.uint8)
    for photo in (skimage.data.chelsea(), skimage.data.coffee(), noise, np.full((200, 200, 3), 128, np.uint8)):
        assert stage.detect(photo) == []
        with pytest.raises(NoFaceError, match=f"no face was found in the {role}\nFound: {photo.shape[1]} x") as error:
            stage.largest(photo, role)
        assert error.value.code == "no_face"


@pytest.mark.parametrize("size", [0.5, 0.35])
def test_small_faces_are_found_in_parts_of_the_photo(stage, size):
    """A face of 113 and of 79 px in a photo of 1280 px."""
    photo = cv2.resize(skimage.data.coffee(), (1280, 700))
    portrait = cv2.resize(_hopper(), None, fx=size, fy=size, interpolation=cv2.INTER_AREA)
    photo[350 : 350 + portrait.shape[0], 900 : 900 + portrait.shape[1]] = portrait
    (face,) = stage.detect(photo)
    alone, _ = stage.largest(_hopper(), "face photo")
    eye_distance = np.linalg.norm(alone.keypoints[0] - alone.keypoints[1]) * size
    errors = np.linalg.norm(face.keypoints - alone.keypoints * size - [900, 350], axis=1)
    assert errors.max() < 0.12 * eye_distance


# ---- parts


def _no_face(_feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    rows = {stride: 2 * (640 // stride) ** 2 for stride in (8, 16, 32)}
    heads = {"scores": 1, "boxes": 4, "keypoints": 10}
    return {f"{name}_{s}": np.zeros((n, width), np.float32) for name, width in heads.items() for s, n in rows.items()}


def test_scrfd_looks_again_at_the_photo_made_smaller():
    """A network that sees nothing until the photo is at most 160 px wide."""
    looked_at = []

    def run(feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        shown = int((feed["image"][0].max((0, 2)) > 0).sum())
        looked_at.append(shown)
        outputs = _no_face(feed)
        if shown <= 160:
            # The anchor at cell (2, 3) of stride 32 is at (96, 64); its face reaches one stride to every side.
            row = 2 * (2 * 20 + 3)
            outputs["scores_32"][row], outputs["boxes_32"][row] = 0.9, 1
            outputs["keypoints_32"][row] = np.arange(10)
        return outputs

    found = DETECTORS["scrfd"].detect(run, np.full((800, 1280, 3), 255, np.uint8), 640)
    assert looked_at == [640, 320, 160]
    np.testing.assert_allclose(found.boxes, np.array([[64, 32, 128, 96]]) * 8)
    np.testing.assert_allclose(found.keypoints[0], (np.arange(10).reshape(5, 2) * 32 + (96, 64)) * 8)
    np.testing.assert_allclose(found.scores, 0.9)


def test_scrfd_without_a_face_gives_an_empty_list():
    stage = FaceStage(Dims("scrfd", 640, "arcface", 112), _no_face, _no_face)
    assert stage.detect(np.zeros((64, 64, 3), np.uint8)) == []


def test_the_crop_size_must_be_the_encoders():
    with pytest.raises(ValueError, match="dlib takes crops of 150 px, not 112"):
        FaceStage(Dims("scrfd", 640, "dlib", 112), _no_face, _no_face)


_BOXES = st.lists(
    st.tuples(st.floats(0, 90), st.floats(0, 90), st.floats(1, 60), st.floats(1, 60)), min_size=1, max_size=30
).map(lambda rows: np.array([(x, y, x + w, y + h) for x, y, w, h in rows], np.float32))


@given(_BOXES)
def test_suppression_keeps_the_best_of_every_group(boxes):
    kept = suppress(boxes, 0.4)
    assert kept[0] == 0
    assert (np.diff(kept) > 0).all()
    for i, box in enumerate(boxes):
        better = kept[kept < i]
        overlaps = (overlap(box, boxes[better], pixel=1) > 0.4).any()
        assert overlaps != (i in kept)


def test_overlap_by_hand():
    box = np.array([0, 0, 10, 10], np.float32)
    others = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 10, 20, 20], [2, 2, 4, 4]], np.float32)
    np.testing.assert_allclose(overlap(box, others), [1, 1 / 3, 0, 0.04])
    np.testing.assert_allclose(overlap(box, others, pixel=1), [1, 66 / 176, 1 / 241, 9 / 121], rtol=1e-6)


@given(st.integers(32, 400), st.integers(32, 400), st.floats(-150, 350), st.floats(-150, 350), st.floats(20, 700))
def test_a_view_knows_its_way_back(width, height, x, y, side):
    """Coordinates in the photo's colours: what the view shows at a pixel is what the photo has where it points."""
    ramp_y, ramp_x = np.mgrid[:height, :width].astype(np.float32)
    photo = np.stack([ramp_x * 255 / width, ramp_y * 255 / height, np.full_like(ramp_x, 50)], -1).astype(np.uint8)
    view = view_of(photo, Window(x, y, side), 224)
    assert view.pixels.shape == (224, 224, 3)
    shown = np.argwhere(view.pixels[..., 2] == 50)[:, ::-1] + 0.5
    points = view.to_photo(shown.astype(np.float32))
    tolerance = 1.5 + 2 * side / 224
    inside = ((points > tolerance) & (points < np.array([width, height]) - tolerance)).all(1)
    colours = view.pixels[(shown[inside, 1] - 0.5).astype(int), (shown[inside, 0] - 0.5).astype(int), :2]
    at = colours * np.array([width, height]) / 255
    in_window = (
        (points[inside] > (x + tolerance, y + tolerance))
        & (points[inside] < (x + side - tolerance, y + side - tolerance))
    ).all(1)
    assert np.abs(at - points[inside])[in_window].max(initial=0) < tolerance + max(width, height) / 255


def test_beyond_the_photo_a_view_has_the_mean_colour_of_its_part():
    photo = fresh_rng().integers(0, 256, (90, 60, 3), np.uint8)
    view = view_of(photo, Window(-20, -10, 120), 240)  # twice as large: 40 px left, 20 above, 80 right, 40 below
    part = view.pixels[20:200, 40:160]
    beyond = view.pixels.copy()
    beyond[20:200, 40:160] = mean = np.floor(cv2.mean(part)[:3]).astype(np.uint8)
    np.testing.assert_array_equal(beyond, np.broadcast_to(mean, beyond.shape))
    np.testing.assert_array_equal(part, cv2.resize(photo, (120, 180), interpolation=cv2.INTER_LINEAR))


def test_a_face_is_covered_with_the_mean_colour_of_the_view(monkeypatch):
    before = []

    def look(photo: np.ndarray, window: Window, px: int) -> View:
        view = view_of(photo, window, px)
        before.append(view.pixels.copy())
        return view

    monkeypatch.setattr("instantrt.conditioning.detectors.view_of", look)
    photo, beside = fresh_rng().integers(0, 256, (200, 300, 3), np.uint8), DETECTORS["tiny68"].beside
    assert beside is not None
    after = beside(photo, np.array([10, 40, 150, 160], np.float32), 224).pixels
    covered = (after != before[0]).any(-1)
    assert covered.sum() > 100
    mean = before[0].mean((0, 1)).astype(np.uint8)
    np.testing.assert_array_equal(after[covered], np.broadcast_to(mean, (covered.sum(), 3)))


@given(st.integers(1, 2000), st.integers(1, 2000), st.sampled_from([640, 320, 160]))
def test_letterbox_fits(width, height, longest):
    view = letterbox(np.full((height, width, 3), 255, np.uint8), 640, longest)
    filled = view.pixels[..., 0] > 0
    rows, columns = filled.any(1).sum(), filled.any(0).sum()
    assert filled[:rows, :columns].all()
    assert (rows if height > width else columns) == longest
    # Parts of a pixel are cut off, as by insightface, but a photo of a line keeps one pixel.
    shorter = longest * min(width, height) / max(width, height)
    assert abs(min(rows, columns) - max(shorter, 1)) <= 1
