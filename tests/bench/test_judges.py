"""The judges of identity: the conversion of the independent one, and whether it tells people apart."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper

from instantrt import InstantID
from instantrt.conditioning.alignment import TEMPLATES, Template, aligned_crop
from instantrt.conditioning.face import Face
from instantrt.conditioning.photo import decode_photo
from instantrt_bench.cases.manifest import default_manifest
from instantrt_bench.identity.judges import convert
from instantrt_bench.identity.judges.judge import (
    JudgeError,
    encoder_judge,
    euclidean,
    faceres_judge,
    insightface_judges,
)
from instantrt_bench.results.metrics import cosine
from randomness import fresh_rng

Picture = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def runtime(nano_bundle: Path) -> Iterator[InstantID]:
    with InstantID.load(nano_bundle, threads=1) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def portraits() -> dict[str, Picture]:
    manifest = default_manifest()
    return {photo.id: decode_photo(manifest.file(photo.photo)).pixels for photo in manifest.photos}


def alterations() -> dict[str, Callable[[Picture], Picture]]:
    def grey(photo: Picture) -> Picture:
        return np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)

    def scaled(photo: Picture, factor: Any, shift: float = 0.0) -> Picture:
        return np.uint8(np.clip(photo * np.asarray(factor) + shift, 0, 255))

    def turned(photo: Picture) -> Picture:
        height, width = photo.shape[:2]
        return cv2.warpAffine(photo, cv2.getRotationMatrix2D((width / 2, height / 2), 12, 1), (width, height))

    noise = fresh_rng()
    return {
        "plain": lambda p: p,
        "mirrored": lambda p: np.ascontiguousarray(p[:, ::-1]),
        "dark": lambda p: scaled(p, 0.6),
        "bright": lambda p: scaled(p, 1.3, 10),
        "grey": grey,
        "blurred": lambda p: cv2.GaussianBlur(p, (0, 0), 2.5),
        "noisy": lambda p: scaled(p + noise.normal(0, 15, p.shape), 1),
        "small": lambda p: cv2.resize(p, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA),
        "turned": turned,
        "jpeg": lambda p: cv2.imdecode(cv2.imencode(".jpg", p, [cv2.IMWRITE_JPEG_QUALITY, 12])[1], cv2.IMREAD_COLOR),
        "warm": lambda p: scaled(p, [1.15, 1.0, 0.8]),
        "noir": lambda p: scaled(grey(p).astype(float) - 110, 1.6, 110),
    }


def test_the_independent_judge_tells_people_apart(runtime: InstantID, portraits: dict[str, Picture]) -> None:
    judge = faceres_judge()
    seen = {}
    for (person, photo), (name, alter) in product(portraits.items(), alterations().items()):
        altered = alter(photo)
        seen[person, name] = judge.embed(altered, runtime.faces.find(altered, "photo").face)
    pairs = [(a[0] == b[0], cosine(seen[a], seen[b])) for a, b in combinations(seen, 2)]
    same = [likeness for alike, likeness in pairs if alike]
    different = [likeness for alike, likeness in pairs if not alike]
    assert (len(same), len(different)) == (132, 144)
    assert min(same) > 0.6
    assert max(different) < 0.5
    assert np.mean(same) > 0.85
    assert np.mean(different) < 0.4


def test_likeness_falls_steadily_from_one_person_to_the_other(
    runtime: InstantID, portraits: dict[str, Picture]
) -> None:
    """Faces on one template, cross-faded."""
    judge = faceres_judge()
    points = ((np.array(TEMPLATES["arcface"].points) / 112 - 0.5) * 0.5 + 0.5) * 256
    template = Template(256, tuple(map(tuple, points)), antialias=True)
    one, other = (
        aligned_crop(p, runtime.faces.find(p, "photo").face.keypoints, template).astype(float)
        for p in portraits.values()
    )
    face = Face(np.array([60, 60, 200, 200], np.float32), points.astype(np.float32), 1.0)
    faded = [judge.embed(np.uint8((1 - t) * one + t * other), face) for t in np.linspace(0, 1, 11)]
    likeness = [cosine(faded[0], embedding) for embedding in faded]
    assert all(after < before for before, after in pairwise(likeness))


def test_the_encoder_of_the_bundle_is_not_independent(runtime: InstantID, astronaut: Picture) -> None:
    face, embedding = runtime.faces.read(astronaut, "photo")
    judge = encoder_judge(lambda picture, _face: runtime.faces.read(picture, "photo")[1])
    assert (judge.independent, faceres_judge().independent) == (False, True)
    np.testing.assert_array_equal(judge.embed(astronaut, face.face), embedding)
    assert euclidean(np.float32([3, 0]), np.float32([0, 4])) == 5.0


def recognition_network(path: Path, side: int = 112) -> None:
    """A network of insightface's signature: the mean of each colour over the crop."""
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["input.1", "axes"], ["embedding"], keepdims=0)],
        "recognition",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["n", 3, side, side])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor("axes", TensorProto.INT64, [2], [2, 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def test_insightface_packs_judge_where_they_are(tmp_path: Path, astronaut: Picture) -> None:
    pack = tmp_path / "models" / "buffalo_l"
    pack.mkdir(parents=True)
    recognition_network(pack / "w600k_r50.onnx")
    (pack / "det_10g.onnx").write_bytes(b"a detector is not opened")
    encoder = tmp_path / "glintr100.onnx"
    recognition_network(encoder, side=113)
    (pack / "glintr100.onnx").write_bytes(encoder.read_bytes())
    (judge,) = insightface_judges(tmp_path / "models", encoder)
    assert (judge.name, judge.independent) == ("insightface-w600k_r50", True)
    keypoints = np.array(TEMPLATES["arcface"].points, np.float32) * 2 + 100
    face = Face(np.array([100, 100, 324, 324], np.float32), keypoints, 1.0)
    crop = aligned_crop(astronaut, keypoints, TEMPLATES["arcface"])
    np.testing.assert_allclose(judge.embed(astronaut, face), crop.mean((0, 1)) / 127.5 - 1, atol=1e-4)
    assert insightface_judges(tmp_path / "absent", encoder) == []


@pytest.mark.parametrize("damage", ["other size", "no network"])
def test_a_pack_that_cannot_judge_is_an_error(tmp_path: Path, damage: str) -> None:
    (tmp_path / "encoder.onnx").write_bytes(b"")
    path = tmp_path / "w600k_mbf.onnx"
    path.write_bytes(b"\x00" * 9) if damage == "no network" else recognition_network(path, side=96)
    with pytest.raises(JudgeError, match="w600k_mbf"):
        insightface_judges(tmp_path, tmp_path / "encoder.onnx")


class Package:
    """A small package of the npm package's layout, with fresh random weights: two convolutions and a mean."""

    def __init__(self, folder: Path) -> None:
        rng = fresh_rng()
        draws = {"conv": (3, 3, 3, 8), "bias": (8,), "depth": (3, 3, 8, 1), "scale": (8,), "six": (), "zero": ()}
        self.weights = {name: rng.normal(0, 0.3, shape).astype(np.float16) for name, shape in draws.items()}
        self.weights |= {"six": np.float16(6).reshape(()), "zero": np.float16(0).reshape(())}
        self.weights["axes"] = np.array([1, 2], np.int32)
        self.nodes = [
            self.node("input_1", "Placeholder"),
            *(self.node(name, "Const") for name in self.weights),
            self.node("a", "Conv2D", "input_1", "conv", strides=2),
            self.node("b", "Add", "a", "bias"),
            self.node("c", "Relu", "b"),
            self.node("d", "Minimum", "c", "six"),
            self.node("e", "Maximum", "d", "zero"),
            self.node("f", "DepthwiseConv2dNative", "e", "depth", strides=1),
            self.node("g", "Mul", "f", "scale"),
            self.node("global_pooling/Mean", "Mean", "g", "axes"),
            self.node("age", "_FusedMatMul", "global_pooling/Mean"),
        ]
        self.folder = folder
        (folder / "models").mkdir()

    @staticmethod
    def node(name: str, op: str, *inputs: str, strides: int = 0) -> dict[str, Any]:
        attributes = {"padding": {"s": base64.b64encode(b"SAME").decode()}}
        attributes["strides"] = {"list": {"i": ["1", str(strides), str(strides), "1"]}}
        return {"name": name, "op": op, "input": list(inputs), "attr": attributes if strides else {}}

    def write(self) -> None:
        entries = [
            {"name": name, "shape": list(values.shape), "dtype": "float32", "quantization": {"dtype": "float16"}}
            if values.dtype == np.float16
            else {"name": name, "shape": list(values.shape), "dtype": "int32"}
            for name, values in self.weights.items()
        ]
        spec = {"modelTopology": {"node": self.nodes}, "weightsManifest": [{"weights": entries}]}
        (self.folder / "models" / "faceres.json").write_text(json.dumps(spec))
        (self.folder / "models" / "faceres.bin").write_bytes(b"".join(v.tobytes() for v in self.weights.values()))

    def expected(self, faces: Picture) -> npt.NDArray[np.float32]:
        conv, bias, depth, scale = (
            torch.from_numpy(self.weights[n].astype(np.float32)) for n in ("conv", "bias", "depth", "scale")
        )
        x = torch.from_numpy(faces).permute(0, 3, 1, 2).float()
        # TensorFlow pads "same" of stride 2 on even sizes at the right and bottom only.
        x = F.conv2d(F.pad(x, (0, 1, 0, 1)), conv.permute(3, 2, 0, 1), stride=2) + bias.view(-1, 1, 1)
        x = F.conv2d(x.clamp(0, 6), depth.permute(2, 3, 0, 1), padding=1, groups=8) * scale.view(-1, 1, 1)
        return x.mean((2, 3)).numpy()


def test_the_conversion_computes_what_the_graph_says(tmp_path: Path) -> None:
    package = Package(tmp_path)
    package.write()
    model = convert.convert(tmp_path)
    assert not {node.op_type for node in model.graph.node} & {"MatMul", "Gemm"}  # the head for age is left out
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    faces = fresh_rng().integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    (found,) = session.run(["embedding"], {"faces": faces})
    np.testing.assert_allclose(found, package.expected(faces), rtol=1e-4, atol=1e-4)


def test_the_conversion_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    package = Package(tmp_path)
    package.nodes[-2]["op"] = "Sum"
    package.write()
    with pytest.raises(ValueError, match="is a Sum"):
        convert.convert(tmp_path)
    package.nodes[-2]["op"], package.weights["axes"] = "Mean", np.array([0, 1], np.int32)
    package.write()
    with pytest.raises(ValueError, match="not over the picture"):
        convert.convert(tmp_path)
    (tmp_path / "models" / "faceres.bin").write_bytes(b"\0" * 9999)
    with pytest.raises(ValueError, match="describes"):
        convert.convert(tmp_path)


def test_the_committed_network_has_the_contract_and_its_licence() -> None:
    folder = Path(convert.__file__).parent
    model = onnx.load(folder / "faceres.onnx")
    shapes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.output]
    assert shapes == [["n", convert.WIDTH]]
    assert "MIT License" in (folder / "LICENSE").read_text()
    assert "@vladmandic/human" in (folder / "ORIGIN.md").read_text()
    assert (folder / "faceres.onnx").stat().st_size < 8_000_000
