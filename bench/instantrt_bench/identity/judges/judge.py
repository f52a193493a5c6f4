"""Judges of identity: each puts a face into a number space of its own; alike faces have a cosine near 1 there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from instantrt.bundle import FileRecord
from instantrt.conditioning.alignment import TEMPLATES, Template, aligned_crop
from instantrt.conditioning.face import Face
from instantrt.errors import InstantRTError

Picture = npt.NDArray[np.uint8]
Embedding = npt.NDArray[np.float32]

FACERES_PX = 224
FACERES_FACE_SIZE = 0.7  # of the ArcFace template's: of 0.6 to 1.0 the size that told people apart best, see ORIGIN.md
RECOGNITION_PX = 112  # insightface's recognition networks


class JudgeError(InstantRTError):
    """A judge's network cannot be read."""

    code = "judge"


@dataclass(frozen=True)
class Judge:
    """One way to say how alike two faces are.

    Args:
        name: short, for tables and results.
        independent: whether it shares no weights with the encoder that conditions the pictures.
        embed: u8 RGB picture [H, W, 3] and one of its faces to f32 [width], of any length.
    """

    name: str
    independent: bool
    embed: Callable[[Picture, Face], Embedding]


def euclidean(a: Embedding, b: Embedding) -> float:
    """Distance between two embeddings as they are, in float64."""
    return float(np.linalg.norm(a.astype(np.float64) - b.astype(np.float64)))


def encoder_judge(embed: Callable[[Picture, Face], Embedding]) -> Judge:
    """The encoder that conditions the pictures: biased, because they were made to please it."""
    return Judge("bundle-encoder", independent=False, embed=embed)


def faceres_judge() -> Judge:
    """``faceres``: MobileNet features trained on faces, of other weights and design than any encoder of a bundle."""
    session = onnxruntime.InferenceSession(
        str(files("instantrt_bench.identity.judges") / "faceres.onnx"), providers=["CPUExecutionProvider"]
    )
    template = _scaled_template(TEMPLATES["arcface"], FACERES_PX, FACERES_FACE_SIZE)

    def embed(picture: Picture, face: Face) -> Embedding:
        crop = aligned_crop(picture, face.keypoints, template)
        return np.asarray(session.run(None, {"faces": crop[None]})[0][0], np.float32)

    return Judge("faceres", independent=True, embed=embed)


def insightface_judges(folder: Path, encoder: Path) -> list[Judge]:
    """The recognition networks below an insightface model folder, e.g. ``~/.insightface/models``; maybe none.

    Args:
        folder: may be absent.
        encoder: the checkpoint's face encoder; the same file in a pack is no judge of its own.

    Raises:
        JudgeError: a file is no network, or none that takes faces of 112x112 pixels.
    """
    own = FileRecord.of(encoder).sha256
    networks = (path for path in sorted(folder.rglob("*.onnx")) if _is_recognition(path))
    return [_recognition_judge(path) for path in networks if FileRecord.of(path).sha256 != own]


def _is_recognition(path: Path) -> bool:
    """Packs name recognition networks after their training, e.g. ``w600k_r50``, ``glintr100``; other files do else."""
    return path.stem.startswith(("w600k_", "glintr", "ms1mv3_", "arcface_"))


def _recognition_judge(path: Path) -> Judge:
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own classes share no base
        hint = "remove it, or name another folder with --insightface"
        raise JudgeError(f"{path} cannot be read as a network", found=str(error), hint=hint) from error
    (spec,) = session.get_inputs()[:1]
    if list(spec.shape[1:]) != [3, RECOGNITION_PX, RECOGNITION_PX]:
        hint = (
            f"it needs an input of [n, 3, {RECOGNITION_PX}, {RECOGNITION_PX}]; name another folder with --insightface"
        )
        raise JudgeError(f"{path} is no recognition network", found=f"an input of {spec.shape}", hint=hint)

    def embed(picture: Picture, face: Face) -> Embedding:
        crop = aligned_crop(picture, face.keypoints, TEMPLATES["arcface"]).astype(np.float32)
        pixels = (crop.transpose(2, 0, 1)[None] - 127.5) / 127.5
        return np.asarray(session.run(None, {spec.name: pixels.astype(np.float32)})[0][0], np.float32)

    return Judge(f"insightface-{path.stem}", independent=True, embed=embed)


def _scaled_template(template: Template, px: int, size: float) -> Template:
    """The template in a crop of ``px`` pixels, its face ``size`` times as large a part of the crop as before."""
    points = ((np.array(template.points) / template.px - 0.5) * size + 0.5) * px
    return Template(px, tuple((float(x), float(y)) for x, y in points), antialias=True)
