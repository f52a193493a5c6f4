"""The face stage on nano's real face networks, without a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources

import numpy as np
import onnx
import onnxruntime

from instantrt.conditioning.face import FaceStage
from instantrt_export.faces.graphs import detector_graph, encoder_graph, find_face_models

Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Dims:
    """The part of ModelDims that the face stage reads."""

    detector: str
    detector_px: int
    encoder: str
    face_px: int


def session(model: onnx.ModelProto) -> Run:
    """A network that runs on one thread of the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    opened = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in opened.get_outputs()]
    return lambda feed: dict(zip(names, opened.run(names, dict(feed)), strict=True))


def nano_face_stage() -> FaceStage:
    """Detector and encoder of the committed checkpoint."""
    with resources.as_file(resources.files("instantrt_nano") / "checkpoint" / "faces") as folder:
        models = find_face_models(folder)
        return FaceStage(
            Dims(models.detector_kind, models.detector_px, models.encoder_kind, models.face_px),
            session(detector_graph(models.detector, models.detector_kind, models.detector_px)),
            session(encoder_graph(models.encoder, models.encoder_kind, models.face_px, models.embedding_width)),
        )
