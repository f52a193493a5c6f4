"""The worker on TensorRT: lanes of captured graphs that share the device, and pictures as `generate` makes them.

Runs on a GPU, and on the doubles above the stand-in driver (test_on_the_cuda_double.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("cuda.core", reason="needs cuda-core")

from doubles.photos import encoded
from doubles.worker_talk import ScriptedConnection, answers, pictures
from instantrt import GenerateRequest, InstantID
from instantrt.denoise import LoopShape
from instantrt.engine import TargetOptions
from instantrt_serve.messages import Done, Stop, Submit
from instantrt_serve.worker.loop import Facts, Worker
from instantrt_serve.worker.maker import PictureMaker
from instantrt_serve.worker.measure import Measured, free_bytes
from instantrt_serve.worker.preview import PreviewMap

pytestmark = pytest.mark.gpu

FIELDS: dict[str, Any] = {"prompt": "portrait photo of a person", "width": 64, "height": 64}
JOBS: dict[str, dict[str, Any]] = {
    "long": {"steps": 9, "seed": 1},
    "stochastic": {"steps": 5, "seed": 2, "sampler": "dpmpp_2m_sde_karras", "samples": 2},
    "unguided": {"steps": 4, "seed": 3, "guidance_scale": 1.0},
}


@pytest.mark.usefixtures("executing")
@pytest.mark.parametrize("slots", [1, 2])
def test_jobs_side_by_side_give_the_pictures_that_generate_gives(
    planned_bundle: Path, astronaut: npt.NDArray[np.uint8], slots: int
) -> None:
    photo = encoded(astronaut, "PNG")
    jobs = [Submit(name, name, {**FIELDS, **own}, photo, format="png", preview_calls=2) for name, own in JOBS.items()]
    connection = ScriptedConnection([*jobs, Stop()])
    with PictureMaker(planned_bundle, "tensorrt-rtx", TargetOptions()) as maker:
        assert free_bytes(maker.device) > 0
        loop = maker.open_loop(LoopShape(slots, 2, 64, 64))
        preview = PreviewMap(np.ones((5, 3), np.float32))
        measured = Measured(loop, {slots: float(slots)}, 2, {"64x64/2": 20.0}, 10.0, preview)
        Worker(maker, measured, connection, Facts("nano", "1")).run()  # type: ignore[arg-type]
    with InstantID.load(planned_bundle, target="tensorrt-rtx") as pipeline:
        for name, answer in answers(connection.sent).items():
            assert isinstance(answer, Done), answer
            alone = pipeline.run(GenerateRequest(face=astronaut, **FIELDS, **JOBS[name])).pixels
            if slots == 1 and len(alone) == 1:
                np.testing.assert_array_equal(pictures(answer), alone, err_msg=name)
            else:  # other shapes may be computed by other kernels
                assert np.abs(pictures(answer).astype(int) - alone).max() <= 2, name
    assert answers(connection.sent).keys() == JOBS.keys()
