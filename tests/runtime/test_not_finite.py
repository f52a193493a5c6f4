"""A network whose numbers are not finite ends a request with an error that names it, never with a picture."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from instantrt import GenerateRequest, InstantID, NotFiniteError
from instantrt.bundle import read_manifest, write_manifest
from instantrt.cli import main
from instantrt.contracts import network_contracts

CALLS = 4


@pytest.fixture
def request_4(astronaut: npt.NDArray[np.uint8]) -> GenerateRequest:
    fields = {"prompt": "portrait photo of a person", "steps": CALLS, "seed": 5, "width": 64, "height": 64}
    return GenerateRequest(face=astronaut, **fields)


def spoiled(bundle: Path, copy: Path, network: str, value: float) -> Path:
    """A bundle in which every weight of one network has this value; its digests are right."""
    shutil.copytree(bundle, copy, copy_function=os.link)
    path = copy / f"onnx/{network}.onnx"
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) >= 2:
            tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, value, np.float32), tensor.name))
    path.unlink()
    onnx.save(proto, path)
    write_manifest(copy, read_manifest(copy))
    return copy


# What the face detector gives is compared with thresholds: where it is not a number there is no face.
WHERE = {
    "face_encoder": "its output embedding",
    "text_encoder": "its output hidden_states",
    "text_encoder_2": "its output hidden_states",
    "image_projection": "its output tokens",
    "control_embedding": "its output for control_features",
    "time_embedding": "its output for time_embeddings_unet",
    "cross_attention": "its output for text_kv_unet",
    "identitynet": f"call 1 of {CALLS}, its output residual_0",
    "unet": f"call 1 of {CALLS}, its output next_latents",
    "vae_decoder": "its output images",
}


def test_every_network_but_the_detector_is_looked_at(nano_bundle: Path) -> None:
    assert {*WHERE, "face_detector"} == set(network_contracts(read_manifest(nano_bundle).dims))


@pytest.mark.parametrize("network", WHERE)
def test_a_weight_that_is_not_a_number_is_told_with_its_network(
    network: str, nano_bundle: Path, tmp_path: Path, request_4: GenerateRequest
) -> None:
    bundle = spoiled(nano_bundle, tmp_path / "bundle", network, np.nan)
    with InstantID.load(bundle, threads=1) as pipeline, pytest.raises(NotFiniteError) as error:
        pipeline.run(request_4)
    assert (error.value.network, error.value.found) == (network, WHERE[network])


def test_a_vae_that_overflows_gives_no_picture_and_status_1(
    nano_bundle: Path,
    tmp_path: Path,
    astronaut: npt.NDArray[np.uint8],
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = spoiled(nano_bundle, tmp_path / "bundle", "vae_decoder", 3e38)
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    Image.fromarray(astronaut).save(photo)
    command = ["generate", str(bundle), "--face", str(photo), "--prompt", "a person", "--size", "64x64"]
    assert main([*command, "--steps", "4", "--out", str(out / "a.png")]) == 1
    assert "vae_decoder gave values that are not finite numbers" in capsys.readouterr().err
    assert not out.exists()


def test_a_pipeline_goes_on_after_such_a_request(nano_bundle: Path, request_4: GenerateRequest) -> None:
    """What is kept between requests, such as faces and buffers, holds nothing of the failed one."""
    with InstantID.load(nano_bundle, threads=1) as pipeline:
        before = pipeline.run(request_4)
        loop = pipeline._loop(request_4, 64, 64)
        poisoned = loop.load_slot

        def poison(slot: int, inputs: object) -> None:
            poisoned(slot, inputs)  # type: ignore[arg-type]
            loop._buffers["latents"].array[:] = np.nan  # type: ignore[attr-defined]

        loop.load_slot = poison  # type: ignore[method-assign]
        with pytest.raises(NotFiniteError):
            pipeline.run(request_4)
        loop.load_slot = poisoned  # type: ignore[method-assign]
        np.testing.assert_array_equal(before.pixels, pipeline.run(request_4).pixels)
