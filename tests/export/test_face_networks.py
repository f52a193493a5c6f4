"""Face ONNX files to the contract's networks, and the conversion of the small ones."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import skimage.data
import torch
from onnx import TensorProto, helper, numpy_helper

from doubles.small import DIMS
from instantrt.conditioning.alignment import TEMPLATES, aligned_crop
from instantrt.contracts import ModelDims, network_contracts
from instantrt.errors import CheckpointError
from instantrt_export.faces.graphs import (
    FaceModels,
    detector_graph,
    encoder_graph,
    find_face_models,
    fold_bytes,
    store_bytes,
)
from instantrt_nano.faces import convert
from instantrt_nano.faces.contract_networks import CROP_SHIFT, CROP_SIDE, KEYPOINTS_OF_68
from instantrt_nano.faces.face_api import ANCHORS, load_weights
from randomness import fresh_rng

# torch's exporter uses what torch has deprecated.
pytestmark = pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)`:FutureWarning")

COMMITTED = Path(convert.__file__).parents[1] / "checkpoint" / "faces"
DTYPES = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.float32): TensorProto.FLOAT}


def _run(model: onnx.ModelProto | Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, inputs), strict=True))


def _dims(**changes: object) -> ModelDims:
    antelopev2 = {"face_embedding_width": 512, "face_px": 112, "detector": "scrfd", "detector_px": 640}
    return replace(DIMS, **(antelopev2 | {"encoder": "arcface"} | changes))


def _assert_fits(model: onnx.ModelProto, network: str, dims: ModelDims) -> None:
    contract = network_contracts(dims)[network]
    for values, specs in ((model.graph.input, contract.inputs), (model.graph.output, contract.outputs)):
        found = [
            (v.name, v.type.tensor_type.elem_type, [d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim])
            for v in values
        ]
        assert found == [(s.name, DTYPES[s.numpy_dtype("fp32")], list(s.shape)) for s in specs]


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]


# ---- the committed networks


@pytest.fixture(scope="module")
def models() -> FaceModels:
    return find_face_models(COMMITTED)


@pytest.fixture(scope="module")
def detector(models: FaceModels) -> onnx.ModelProto:
    return detector_graph(models.detector, models.detector_kind, models.detector_px)


@pytest.fixture(scope="module")
def encoder(models: FaceModels) -> onnx.ModelProto:
    return encoder_graph(models.encoder, models.encoder_kind, models.face_px, models.embedding_width)


def test_committed_networks_fit_their_contracts(models, detector, encoder):
    dims = _dims(
        detector=models.detector_kind,
        detector_px=models.detector_px,
        encoder=models.encoder_kind,
        face_px=models.face_px,
        face_embedding_width=models.embedding_width,
    )
    _assert_fits(detector, "face_detector", dims)
    _assert_fits(encoder, "face_encoder", dims)


def test_committed_files_are_small_and_have_their_licence_and_origin():
    assert {p.name for p in COMMITTED.iterdir()} == {
        "tiny_face_68.onnx",
        "dlib_resnet_128.onnx",
        "LICENSE",
        "ORIGIN.md",
    }
    assert sum(p.stat().st_size for p in COMMITTED.iterdir()) < 6_600_000
    assert (COMMITTED / "LICENSE").read_text().startswith("MIT License")
    assert "@vladmandic/face-api" in (COMMITTED / "ORIGIN.md").read_text()


@pytest.mark.parametrize("name", ["tiny_face_68.onnx", "dlib_resnet_128.onnx"])
def test_committed_files_hold_no_path_of_the_machine_that_made_them(name):
    data = (COMMITTED / name).read_bytes()
    assert b"site-packages" not in data
    assert b"/home/" not in data
    assert b"convert.py" not in data


def test_a_plain_session_loads_the_committed_files_and_folding_changes_nothing(models, detector, encoder):
    photo = cv2.resize(skimage.data.astronaut(), (models.detector_px, models.detector_px))[None]
    faces = fresh_rng().integers(0, 256, (3, models.face_px, models.face_px, 3), np.uint8)
    for path, folded, inputs in (
        (models.detector, detector, {"image": photo}),
        (models.encoder, encoder, {"faces": faces}),
    ):
        stored = _run(path, **inputs)
        for name, values in _run(folded, **inputs).items():
            np.testing.assert_allclose(values, stored[name], rtol=1e-5, atol=1e-5)


def test_folded_weights_are_float32(detector, encoder):
    for model in (detector, encoder):
        assert TensorProto.UINT8 not in {w.data_type for w in model.graph.initializer}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_encoder_takes_any_number_of_faces_and_keeps_them_apart(encoder, count):
    faces = fresh_rng().integers(0, 256, (count, 150, 150, 3), np.uint8)
    together = _run(encoder, faces=faces)["embedding"]
    for face, embedding in zip(faces, together, strict=True):
        np.testing.assert_allclose(_run(encoder, faces=face[None])["embedding"][0], embedding, atol=1e-5)


def test_the_encoder_is_dlibs(encoder):
    """The port, its byte-sized weights and our rebuild and storage together move an embedding by less than 0.06."""
    import dlib

    package = importlib.util.find_spec("face_recognition_models").submodule_search_locations[0]
    theirs = dlib.face_recognition_model_v1(f"{package}/models/dlib_face_recognition_resnet_model_v1.dat")
    astronaut = skimage.data.astronaut()
    eyes_nose_mouth = np.array([[201, 112], [246, 108], [225, 135], [207, 151], [250, 148]], np.float32)
    rng = fresh_rng()
    for _ in range(4):
        face = aligned_crop(astronaut, eyes_nose_mouth + rng.normal(0, 2, 2).astype(np.float32), TEMPLATES["dlib"])
        expected = np.array(theirs.compute_face_descriptor(face))
        assert np.linalg.norm(expected) > 1
        assert np.linalg.norm(_run(encoder, faces=face[None])["embedding"][0] - expected) < 0.06


def test_the_detectors_candidates_do_not_overlap_and_faces_come_first(detector):
    image = cv2.resize(skimage.data.astronaut(), (224, 224))[None]
    found = _run(detector, image=image)
    scores, boxes = found["scores"], found["boxes"]
    assert scores[0] > 0.4
    assert all(_overlap(a, b) <= 0.4001 for i, a in enumerate(boxes) for b in boxes[i + 1 :] if min(scores) > 0)
    assert (found["keypoints"][0] > boxes[0, :2]).all()
    assert (found["keypoints"][0] < boxes[0, 2:]).all()


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    return float(sides.prod() / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - sides.prod()))


# ---- the conversion, on an npm package with random weights


def _separable(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{name}/depthwise_filter": (3, 3, inputs, 1),
        f"{name}/pointwise_filter": (1, 1, inputs, outputs),
        f"{name}/bias": (outputs,),
    }


def _detector_shapes() -> dict[str, tuple[int, ...]]:
    widths = [3, 16, 32, 64, 128, 256, 512]
    shapes = {"conv0/filters": (3, 3, 3, 16), "conv0/bias": (16,)}
    for i in range(1, 6):
        shapes |= _separable(f"conv{i}", widths[i], widths[i + 1])
    return shapes | {"conv8/filters": (1, 1, 512, 25), "conv8/bias": (25,)}


def _landmark_shapes() -> dict[str, tuple[int, ...]]:
    shapes = {"dense0/conv0/filters": (3, 3, 3, 32), "dense0/conv0/bias": (32,)}
    for block, width in enumerate((32, 64, 128, 256)):
        if block:
            shapes |= _separable(f"dense{block}/conv0", width // 2, width)
        for i in (1, 2, 3):
            shapes |= _separable(f"dense{block}/conv{i}", width, width)
    return shapes | {"fc/weights": (256, 136), "fc/bias": (136,)}


def _recognition_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, side: int, inputs: int, outputs: int) -> None:
        shapes[f"{name}/conv/filters"] = (side, side, inputs, outputs)
        for part in ("conv/bias", "scale/weights", "scale/biases"):
            shapes[f"{name}/{part}"] = (outputs,)

    conv("conv32_down", 7, 3, 32)
    width = 32
    for name in (
        *("conv32_1", "conv32_2", "conv32_3", "conv64_down", "conv64_1", "conv64_2", "conv64_3"),
        *("conv128_down", "conv128_1", "conv128_2", "conv256_down", "conv256_1", "conv256_2", "conv256_down_out"),
    ):
        outputs = int(name.removeprefix("conv").split("_")[0])
        conv(f"{name}/conv1", 3, width, outputs)
        conv(f"{name}/conv2", 3, outputs, outputs)
        width = outputs
    return shapes | {"fc": (256, 128)}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unpacked npm package whose weights are random, four in five of them quantised."""
    folder = tmp_path_factory.mktemp("npm")
    (folder / "model").mkdir()
    networks = {
        "tiny_face_detector_model": _detector_shapes(),
        "face_landmark_68_model": _landmark_shapes(),
        "face_recognition_model": _recognition_shapes(),
    }
    rng = fresh_rng()
    for name, shapes in networks.items():
        entries, data = zip(*(_random_weight(rng, *item) for item in shapes.items()), strict=True)
        (folder / "model" / f"{name}.bin").write_bytes(b"".join(data))
        manifest = [{"paths": [f"{name}.bin"], "weights": entries}]
        (folder / "model" / f"{name}-weights_manifest.json").write_text(json.dumps(manifest))
    return folder


def _random_weight(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> tuple[dict[str, object], bytes]:
    entry: dict[str, object] = {"name": name, "shape": shape, "dtype": "float32"}
    spread = 2.0 / np.sqrt(max(1, np.prod(shape[:-1]))) if len(shape) > 1 else 0.3
    if "depthwise" in name:
        spread = 0.5
    if name == "conv8/filters":
        spread /= 50  # sizes of boxes are exponentials of this layer's output
    if name.startswith("fc/bias"):
        return entry, rng.uniform(0.2, 0.8, shape).astype(np.float32).tobytes()
    if rng.random() < 0.2:
        return entry, rng.normal(0, spread, shape).astype(np.float32).tobytes()
    entry["quantization"] = {"dtype": "uint8", "scale": spread / 75, "min": -spread * 1.7}
    return entry, rng.integers(0, 256, shape, np.uint8).tobytes()


@pytest.fixture(scope="module")
def converted(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted")
    convert.convert(package, out)
    return out


def _with_stored_weights(module: torch.nn.Module, file: Path) -> torch.nn.Module:
    """The module with the weights of ``file``, each of them near its own."""
    stored = {w.name: numpy_helper.to_array(w) for w in fold_bytes(onnx.load(file)).graph.initializer}
    for name, part in module.named_modules():
        if isinstance(part, torch.nn.Conv2d | torch.nn.Linear):
            rows, kept = (x.reshape(len(x), -1) for x in (part.weight.data.numpy(), stored[f"{name}.weight"]))
            assert (np.abs(kept - rows).max(1) <= 1.001 * np.ptp(rows, axis=1) / 510).all(), name
            part.weight.data = torch.from_numpy(stored[f"{name}.weight"].copy())
    return module


def test_the_converted_encoder_equals_torch(package, converted):
    module = _with_stored_weights(convert.dlib_resnet_128(package), converted / "dlib_resnet_128.onnx")
    faces = fresh_rng().integers(0, 256, (3, 150, 150, 3), np.uint8)
    expected = module(torch.from_numpy(faces)).detach().numpy()
    got = _run(encoder_graph(converted / "dlib_resnet_128.onnx", "dlib", 150, 128), faces=faces)["embedding"]
    assert np.linalg.norm(expected) > 0
    assert np.linalg.norm(got - expected) <= 1e-5 * np.linalg.norm(expected)


def test_the_converted_detector_equals_torch(package, converted):
    module = _with_stored_weights(convert.tiny_face_68(package, 224), converted / "tiny_face_68.onnx")
    image = fresh_rng().integers(0, 256, (1, 224, 224, 3), np.uint8)
    expected = [x.detach().numpy() for x in module(torch.from_numpy(image))]
    got = _run(detector_graph(converted / "tiny_face_68.onnx", "tiny68", 224), image=image)
    for name, values in zip(("scores", "boxes", "keypoints"), expected, strict=True):
        assert np.linalg.norm(got[name] - values) <= 1e-4 * np.linalg.norm(values)


def test_the_detector_decodes_as_face_api_does(package):
    """Every candidate is an anchor, decoded here in loops from the raw output."""
    module = convert.tiny_face_68(package, 128)
    image = torch.from_numpy(fresh_rng().integers(0, 256, (1, 128, 128, 3), np.uint8))
    raw = module.detector(image.permute(0, 3, 1, 2).float())[0].detach().numpy().astype(np.float64)
    anchors = []
    for row in range(4):
        for column in range(4):
            for anchor, (width, height) in enumerate(ANCHORS):
                x, y, w, h, score = raw[row, column, anchor]
                centre = np.array([column + 1 / (1 + np.exp(-x)), row + 1 / (1 + np.exp(-y))]) * 32
                sides = np.array([np.exp(w) * width, np.exp(h) * height]) * 32
                anchors.append((1 / (1 + np.exp(-score)), *(centre - sides / 2), *(centre + sides / 2)))
    scores, boxes, _ = (x.detach().numpy() for x in module(image))
    for score, box in zip(scores, boxes, strict=True):
        matches = np.isclose(np.array(anchors)[:, 1:], box, rtol=1e-4, atol=1e-2).all(1)
        assert matches.any()
        assert score == 0 or np.isclose(np.array(anchors)[matches, 0], score, rtol=1e-4).any()


def test_landmark_crops_follow_the_face(package):
    """Positions in the crop of a turned face come back as positions in the picture."""
    module = convert.tiny_face_68(package, 224)
    module.landmarks = FixedLandmarks()
    keypoints = torch.tensor([[80.0, 100.0], [120.0, 110.0], [98.0, 128.0], [76.0, 140.0], [108.0, 148.0]])
    refined = module._refined(torch.zeros(1, 3, 224, 224), keypoints)
    side = (keypoints[1] - keypoints[0]) * CROP_SIDE  # a crop's upper side
    down = torch.stack([-side[1], side[0]])
    centre = keypoints.mean(0) + CROP_SHIFT * down
    for point, (x, y) in zip(refined, FixedLandmarks.POINTS, strict=True):
        np.testing.assert_allclose(point, centre + (x - 0.5) * side + (y - 0.5) * down, atol=1e-3)


def test_landmark_crops_show_what_they_cover(package):
    """Bright spots at the keypoints of a turned face lie, in the crop, upright and where the average face has them."""
    module = convert.tiny_face_68(package, 224)
    module.landmarks = FixedLandmarks()
    keypoints = np.array([[80, 100], [120, 110], [98, 128], [76, 140], [108, 148]], np.float32)
    for x, y in keypoints:
        picture = np.zeros((224, 224), np.float32)
        cv2.circle(picture, (int(x), int(y)), 2, 255.0, cv2.FILLED)
        module._refined(torch.from_numpy(picture)[None, None].repeat(1, 3, 1, 1), torch.from_numpy(keypoints))
        crop = module.landmarks.seen[-1][0, 0].numpy()
        spot = (np.argwhere(crop > 127)[:, ::-1] + 0.5).mean(0) / 112
        side = (keypoints[1] - keypoints[0]) * CROP_SIDE
        axes = np.stack([side, [-side[1], side[0]]])
        centre = keypoints.mean(0) + CROP_SHIFT * axes[1]
        expected = np.linalg.solve(axes.T, np.array([x + 0.5, y + 0.5]) - centre) + 0.5
        assert np.abs(spot - expected).max() < 0.01


class FixedLandmarks(torch.nn.Module):
    """Gives the same positions for every crop, and keeps the crops."""

    POINTS = ((0.3, 0.35), (0.7, 0.35), (0.5, 0.55), (0.35, 0.75), (0.65, 0.75))

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []
        self.points = torch.zeros(1, 68, 2)
        for point, group in zip(self.POINTS, KEYPOINTS_OF_68, strict=True):
            self.points[0, list(group)] = torch.tensor(point)

    def forward(self, crop: torch.Tensor) -> torch.Tensor:
        self.seen.append(crop)
        return self.points


def test_weights_are_dequantised(tmp_path):
    (tmp_path / "model").mkdir()
    manifest = [
        {
            "paths": ["a.bin", "b.bin"],
            "weights": [
                {
                    "name": "q",
                    "shape": [2, 2],
                    "dtype": "float32",
                    "quantization": {"dtype": "uint8", "scale": 0.5, "min": -3.0},
                },
                {"name": "f", "shape": [2], "dtype": "float32"},
            ],
        }
    ]
    (tmp_path / "model" / "net-weights_manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "model" / "a.bin").write_bytes(bytes([0, 1, 2, 255]) + np.float32(1.25).tobytes()[:2])
    (tmp_path / "model" / "b.bin").write_bytes(np.float32(1.25).tobytes()[2:] + np.float32(-7).tobytes())
    weights = load_weights(tmp_path, "net")
    np.testing.assert_array_equal(weights["q"], [[-3.0, -2.5], [-2.0, 124.5]])
    np.testing.assert_array_equal(weights["f"], [1.25, -7])
    (tmp_path / "model" / "b.bin").write_bytes(b"0" * 100)
    with pytest.raises(ValueError, match="describes 12 bytes, the files have 106"):
        load_weights(tmp_path, "net")


# ---- files as people have them


def _onnx(path: Path, image_shape: list[int | str], outputs: list[tuple[int, int, int]], *, old: bool = False) -> Path:
    """A network that averages the picture's pixels and multiplies them into each output of [batch, rows, width].

    A batch of 0 means an output without that axis. ``old`` lists weights among the inputs, as old exporters did.
    """
    nodes = [helper.make_node("ReduceMean", ["input.1"], ["mean"], keepdims=0)]
    weights = []
    for i, (batch, rows, width) in enumerate(outputs):
        shape = (batch, rows, width) if batch else (rows, width)
        weights.append(numpy_helper.from_array(fresh_rng().random(shape, np.float32), f"w{i}"))
        nodes.append(helper.make_node("Mul", ["mean", f"w{i}"], [f"{400 + i}"]))
    inputs = [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, image_shape)]
    if old:
        inputs += [helper.make_tensor_value_info(w.name, TensorProto.FLOAT, w.dims) for w in weights]
    results = [helper.make_tensor_value_info(f"{400 + i}", TensorProto.FLOAT, None) for i in range(len(outputs))]
    graph = helper.make_graph(nodes, "random", inputs, results, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


def _scrfd_outputs(batch: int) -> list[tuple[int, int, int]]:
    return [(batch, rows, width) for width in (1, 4, 10) for rows in (12800, 3200, 800)]


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("side", [640, "?"])
@pytest.mark.parametrize("old", [False, True])
def test_scrfd_files_become_the_contracts_detector(tmp_path, batch, side, old):
    path = _onnx(tmp_path / "scrfd_10g_bnkps.onnx", [1, 3, side, side], _scrfd_outputs(batch), old=old)
    model = detector_graph(path, "scrfd", 640)
    _assert_fits(model, "face_detector", _dims())
    image = fresh_rng().integers(0, 256, (1, 640, 640, 3), np.uint8)
    raw = (image.astype(np.float32).transpose(0, 3, 1, 2) - 127.5) / 128
    wanted = _run(path, **{"input.1": raw})
    for name, values in zip(_run(model, image=image).items(), wanted.values(), strict=True):
        np.testing.assert_allclose(name[1], values.reshape(name[1].shape), rtol=1e-3, atol=1e-6)


def test_arcface_files_become_the_contracts_encoder(tmp_path):
    """The channel order and normalisation: the network gives single pixels back."""
    nodes = [
        helper.make_node("Flatten", ["data"], ["flat"]),
        helper.make_node("Slice", ["flat", "from", "to", "axis"], ["683"]),
    ]
    numbers = {"from": 112 * 112 * 2, "to": 112 * 112 * 2 + 512, "axis": 1}  # the first 512 blue values
    weights = [numpy_helper.from_array(np.array([value]), name) for name, value in numbers.items()]
    data = helper.make_tensor_value_info("data", TensorProto.FLOAT, ["None", 3, 112, 112])
    graph = helper.make_graph(
        nodes, "g", [data], [helper.make_tensor_value_info("683", TensorProto.FLOAT, None)], weights
    )
    path = tmp_path / "glintr100.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    model = encoder_graph(path, "arcface", 112, 512)
    _assert_fits(model, "face_encoder", _dims())
    faces = fresh_rng().integers(0, 256, (3, 112, 112, 3), np.uint8)
    blue = faces.reshape(3, -1, 3)[:, :512, 2].astype(np.float32)
    np.testing.assert_allclose(_run(model, faces=faces)["embedding"], (blue - 127.5) / 127.5, atol=1e-6)


def test_wrong_files_are_named(tmp_path):
    path = tmp_path / "scrfd_10g_bnkps.onnx"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(CheckpointError, match=r"(?s)scrfd_10g_bnkps.onnx is no readable ONNX file.*Git LFS pointer"):
        detector_graph(path, "scrfd", 640)
    _onnx(path, [1, 3, 640, 640], _scrfd_outputs(0)[:6])
    with pytest.raises(CheckpointError, match="it must have 9 outputs\nFound: 6: 400, 401"):
        detector_graph(path, "scrfd", 640)
    with pytest.raises(CheckpointError, match="it must have 1 outputs"):
        encoder_graph(path, "arcface", 112, 512)


def test_heads_of_the_wrong_size_are_refused(tmp_path):
    """Half the anchors: SCRFD's variant with one anchor a cell."""
    halved = [(0, rows // 2, width) for _, rows, width in _scrfd_outputs(0)]
    path = _onnx(tmp_path / "scrfd.onnx", [1, 3, 640, 640], halved)
    with pytest.raises(CheckpointError, match="output 400 must hold 12800 numbers\nFound: 6400 x 1"):
        detector_graph(path, "scrfd", 640)


def test_face_models_are_found_by_name(tmp_path):
    for name in ("scrfd_10g_bnkps.onnx", "glintr100.onnx", "genderage.onnx", "2d106det.onnx"):
        (tmp_path / name).touch()
    assert find_face_models(tmp_path) == FaceModels(
        tmp_path / "scrfd_10g_bnkps.onnx", "scrfd", tmp_path / "glintr100.onnx", "arcface", 640, 112, 512
    )


def test_missing_face_models_are_named(tmp_path):
    (tmp_path / "glintr100.onnx").touch()
    with pytest.raises(CheckpointError, match=r"lacks face detector: scrfd_10g_bnkps.onnx or tiny_face_68.onnx\n"):
        find_face_models(tmp_path)
    with pytest.raises(CheckpointError, match=r"face detector: .*; face encoder: glintr100.onnx or dlib"):
        find_face_models(tmp_path / "absent")


def _stored_and_folded(weight: np.ndarray) -> np.ndarray:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node("Add", ["y", "shift"], ["z"])]
    initialisers = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.float32([0.1]), "shift")]
    x, z = (helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xz")
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [z], initialisers))
    stored = {w.name: w.data_type for w in store_bytes(model).graph.initializer}
    column = {"w_scale": TensorProto.FLOAT, "w_offset": TensorProto.FLOAT}
    assert stored == {"shift": TensorProto.FLOAT, "w_bytes": TensorProto.UINT8, **column}
    folded = {w.name: numpy_helper.to_array(w) for w in fold_bytes(model).graph.initializer}
    assert [n.op_type for n in model.graph.node] == ["Conv", "Add"]
    np.testing.assert_array_equal(folded["shift"], np.float32([0.1]))
    return folded["w"]


def test_weights_that_came_from_bytes_are_stored_as_they_are():
    rng = fresh_rng()
    levels = rng.integers(0, 256, (4, 8, 3, 3))
    scale = rng.uniform(1e-4, 1e-2, (4, 1, 1, 1))
    weight = ((levels - rng.integers(0, 256)) * scale + rng.normal()).astype(np.float32)
    np.testing.assert_allclose(_stored_and_folded(weight), weight, rtol=1e-6, atol=1e-6)


def test_other_weights_move_by_half_a_level_at_most():
    weight = fresh_rng().normal(size=(4, 3, 3, 3)).astype(np.float32)
    weight[2] = 0.25  # a channel without any span
    moved = np.abs(_stored_and_folded(weight) - weight)
    assert (moved.max((1, 2, 3)) <= 1.001 * np.ptp(weight, axis=(1, 2, 3)) / 510).all()
