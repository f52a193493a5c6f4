"""Requests through the runtime on the nano bundle: what comes back, and what bad input gets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from doubles.photos import encoded
from instantrt import BundleError, CancelledError, GenerateRequest, InstantID, NoFaceError, RequestError
from instantrt.cli import main
from instantrt.denoise import DenoiseLoop, LoopShape, SlotInputs
from instantrt.samplers import step_table


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def pipeline(nano_bundle: Path, compiled: Path, request: pytest.FixtureRequest) -> Iterator[InstantID]:
    """On each target that runs on a CPU."""
    options = {"runtime_cache": compiled} if request.param == "openvino" else {}
    with InstantID.load(nano_bundle, target=request.param, threads=1, **options) as loaded:
        yield loaded


@pytest.fixture
def request_4(astronaut: npt.NDArray[np.uint8]) -> GenerateRequest:
    return GenerateRequest(face=astronaut, prompt="portrait photo of a person", steps=4, seed=5)


def test_a_request_gives_pictures_seed_keypoints_and_timings(pipeline: InstantID, request_4: GenerateRequest) -> None:
    result = pipeline.run(replace(request_4, samples=2))
    assert result.pixels.shape == (2, 128, 128, 3)
    assert result.pixels.dtype == np.uint8
    assert [image.size for image in result.images] == [(128, 128)] * 2
    assert result.seed == 5
    assert result.keypoints.shape == (5, 2)
    assert result.warnings == ()
    assert {"photo", "face", "text", "conditioning", "denoise", "decode"} <= set(result.timings.stages_ms)
    assert len(result.timings.call_ms) == 4
    assert min(result.timings.stages_ms.values()) >= 0
    assert not np.array_equal(result.pixels[0], result.pixels[1])


def test_generate_takes_the_fields_of_a_request(pipeline: InstantID, request_4: GenerateRequest) -> None:
    result = pipeline.generate(face=request_4.face, prompt=request_4.prompt, steps=4, seed=5)
    np.testing.assert_array_equal(result.pixels, pipeline.run(request_4).pixels)
    with pytest.raises(TypeError, match="num_steps"):
        pipeline.generate(face=request_4.face, prompt="a person", num_steps=4)


def test_the_same_request_gives_the_same_picture_whatever_ran_before(
    pipeline: InstantID, request_4: GenerateRequest
) -> None:
    first = pipeline.run(request_4)
    pipeline.run(replace(request_4, sampler="dpmpp_2m_sde_karras", steps=9, prompt="neon"))
    np.testing.assert_array_equal(first.latents, pipeline.run(request_4).latents)


def test_seed_minus_one_draws_a_seed_that_reproduces_the_picture(
    pipeline: InstantID, request_4: GenerateRequest
) -> None:
    drawn = [pipeline.run(replace(request_4, seed=-1)) for _ in range(2)]
    assert drawn[0].seed != drawn[1].seed
    np.testing.assert_array_equal(drawn[0].pixels, pipeline.run(replace(request_4, seed=drawn[0].seed)).pixels)


def test_a_prompt_that_is_too_long_is_cut_with_a_warning_that_names_the_lost_words(
    pipeline: InstantID, request_4: GenerateRequest
) -> None:
    kept = "portrait " * 75
    result = pipeline.run(replace(request_4, prompt=kept + "Zebra crossing"))
    assert len(result.warnings) == 1
    assert "'Zebra crossing'" in result.warnings[0]
    np.testing.assert_array_equal(result.pixels, pipeline.run(replace(request_4, prompt=kept)).pixels)


def test_a_photo_without_its_last_bytes_is_used_and_reported(pipeline: InstantID, request_4: GenerateRequest) -> None:
    file = encoded(np.asarray(request_4.face), "JPEG", quality=95)
    whole = pipeline.run(replace(request_4, face=file))
    assert whole.warnings == ()
    result = pipeline.run(replace(request_4, face=file[: int(0.99 * len(file))], pose=file[:-9]))
    assert len(result.warnings) == 2
    for role, warning in zip(("face", "pose"), result.warnings, strict=True):
        assert warning.startswith(f"{role} photo: the file lacks its last bytes")
    assert np.abs(result.latents - whole.latents).max() < 0.1


def test_several_faces_are_reported_and_the_largest_is_used(pipeline: InstantID, request_4: GenerateRequest) -> None:
    photo = np.asarray(request_4.face)
    small = np.asarray(Image.fromarray(photo[:320, 60:380]).resize((240, 240)))
    both = np.full((512, 900, 3), 90, np.uint8)
    both[:, :512] = photo
    both[136:376, 600:840] = small
    prepared = pipeline.prepare(replace(request_4, face=both))
    (warning,) = prepared.identity.warnings
    assert warning.startswith("2 faces in the face photo, as a rule the largest is used: crop the photo if")
    alone = pipeline.prepare(request_4).identity.embedding
    assert np.linalg.norm(prepared.identity.embedding - alone) < 0.2


@pytest.mark.parametrize("role", ["face", "pose"])
def test_a_photo_without_a_face_is_named(pipeline: InstantID, request_4: GenerateRequest, role: str) -> None:
    blank = np.full((300, 300, 3), 128, np.uint8)
    with pytest.raises(NoFaceError, match=f"{role} photo"):
        pipeline.run(replace(request_4, **{role: blank}))


def test_progress_is_told_and_cancelling_leaves_the_pipeline_usable(
    pipeline: InstantID, request_4: GenerateRequest
) -> None:
    before = pipeline.run(request_4)
    told: list[tuple[int, int]] = []
    with pytest.raises(CancelledError):
        pipeline.run(request_4, progress=lambda *p: told.append(p), cancelled=lambda: len(told) == 2)
    assert told == [(1, 4), (2, 4)]
    np.testing.assert_array_equal(before.pixels, pipeline.run(request_4).pixels)


@pytest.mark.parametrize(
    ("pipeline", "width", "height"),
    [("onnxruntime", 64, 64), ("onnxruntime", 256, 128), ("onnxruntime", 192, 256), ("openvino", 256, 64)],
    indirect=["pipeline"],
)
def test_sizes_within_the_bundles_range(
    pipeline: InstantID, request_4: GenerateRequest, width: int, height: int
) -> None:
    assert pipeline.run(replace(request_4, width=width, height=height)).pixels.shape == (1, height, width, 3)


@pytest.mark.parametrize(
    ("width", "height", "message"), [(320, 128, "64x64 to 256x256"), (100, 128, "multiples of 64")]
)
def test_sizes_outside_it_are_refused(
    pipeline: InstantID, request_4: GenerateRequest, width: int, height: int, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        pipeline.run(replace(request_4, width=width, height=height))


def slot_inputs(pipeline: InstantID, sampler: str, steps: int, seed: int) -> SlotInputs:
    """One slot with random conditions, as different from others as the contract allows."""
    rng = np.random.default_rng(seed)
    dims = pipeline.bundle.dims
    table = step_table(sampler, steps, float(rng.uniform(2, 9)), pipeline.bundle.scheduler)

    def random(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(np.float32)

    masks = {f"control_mask_{s}": rng.random((128 // s, 128 // s), np.float32) for s in dims.control_strides}
    masks |= {f"adapter_mask_{s}": rng.random((128 // s, 128 // s), np.float32) for s in dims.adapter_strides}
    return SlotInputs(
        table=table,
        latents=random(4, 16, 16) * np.float32(table.init_noise_sigma),
        noise=random(table.noise_draws, 4, 16, 16),
        time_embeddings_unet=random(len(table.rows), 2, dims.unet_time_width),
        time_embeddings_identitynet=random(len(table.rows), 2, dims.identitynet_time_width),
        text_kv_unet=random(2, 77, dims.unet_kv_width),
        face_kv_unet=random(2, 16, dims.unet_kv_width),
        face_kv_identitynet=random(2, 16, dims.identitynet_kv_width),
        control_features=random(dims.control_channels, 16, 16),
        masks=masks,
    )


def test_slots_of_one_batch_give_what_each_gives_alone(pipeline: InstantID) -> None:
    """Different seeds, tables, step counts, masks and conditions side by side.

    ONNX Runtime may split a larger batch's matrix products differently, which moves last bits; hence a tolerance of
    a few float32 roundings per step instead of equality.
    """
    inputs = [slot_inputs(pipeline, *case) for case in (("euler", 4, 1), ("heun", 9, 2), ("dpmpp_2m_sde_karras", 7, 3))]

    def latents(slots: list[SlotInputs]) -> npt.NDArray[np.float32]:
        shape = LoopShape(len(slots), 2, 128, 128)
        loop = DenoiseLoop(pipeline._target, pipeline.bundle.dims, pipeline.bundle.precision, shape)
        for index, slot in enumerate(slots):
            loop.load_slot(index, slot)
        loop.run(max(len(slot.table.rows) for slot in slots))
        return loop.latents()

    together = latents(inputs)
    for index, slot in enumerate(inputs):
        alone = latents([slot])[0]
        assert np.linalg.norm(together[index] - alone) / np.linalg.norm(alone) < 1e-5


def test_an_altered_network_is_refused_before_it_runs(nano_bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(nano_bundle, tmp_path / "bundle")
    path = copy / "onnx/vae_decoder.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BundleError, match=r"vae_decoder\.onnx was altered"):
        InstantID.load(copy)


def test_an_unknown_target_lists_the_known_ones(nano_bundle: Path) -> None:
    with pytest.raises(RequestError, match="use one of: onnxruntime"):
        InstantID.load(nano_bundle, target="tensorflow")


@pytest.fixture
def photo_file(astronaut: npt.NDArray[np.uint8], tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    Image.fromarray(astronaut).save(path, quality=95)
    return path


def test_command_line_generate(
    nano_bundle: Path, photo_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "made" / "picture.png"
    command = ["generate", str(nano_bundle), "--face", str(photo_file), "--prompt", "a person", "--steps", "4"]
    assert main([*command, "--samples", "2", "--seed", "3", "--size", "128x64", "--out", str(out), "--json"]) == 0
    output = capsys.readouterr()
    report = json.loads(output.out)
    assert output.err == "", "silent in a pipe"
    assert report["files"] == [str(out.with_stem(f"picture-{i}")) for i in (1, 2)]
    assert report["seed"] == 3
    assert report["timings"]["total_ms"] > 0
    for file in report["files"]:
        with Image.open(file) as picture:
            assert picture.size == (128, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "3"], "steps must be from 4 to 100"),
        (["--style", "Cubism"], "unknown style\nFound: 'Cubism'"),
        (["--face", "nowhere.jpg"], "nowhere.jpg"),
        (["--out", "picture.txt"], "cannot tell a picture format"),
        (["--threads", "0"], "threads must be from 1 to"),
        (["--device", "0"], "onnxruntime has no option device"),
    ],
)
def test_command_line_mistakes_are_one_message_and_exit_1(
    nano_bundle: Path, photo_file: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["generate", str(nano_bundle), "--face", str(photo_file), "--prompt", "a person", "--out", "a.png"]
    assert main([*command, *options]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
