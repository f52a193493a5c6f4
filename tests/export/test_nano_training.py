"""Training: a few steps of every stage on a handful of pictures, and that what they leave is a checkpoint."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from instantrt.conditioning.keypoints import draw_keypoints
from instantrt_export.checkpoint import Checkpoint
from instantrt_nano.digests import file_digests
from instantrt_nano.training import __main__ as command
from instantrt_nano.training import loop
from instantrt_nano.training.diffusion import signal_shares
from instantrt_nano.training.faces import Faces, crop_transform, torch_encoder
from instantrt_nano.training.loop import Run, Schedule, train
from instantrt_nano.training.people import PEOPLE, portrait
from instantrt_nano.training.pictures import Place, averaged, make_pictures, placed
from instantrt_nano.training.prompts import training_prompts
from instantrt_nano.training.styles import STYLES

FACES = command.FACES
SHORT = Schedule(steps=2, learning_rate=1e-3, warm_up=1)
MIN_DISTANCE = 0.6


@pytest.fixture(scope="module")
def faces() -> Faces:
    return Faces(FACES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole command with two steps a stage; the folder with its work and its checkpoint."""
    folder = tmp_path_factory.mktemp("training")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("VAE", "DIFFUSION", "DECODER"):
            patch.setattr(command, name, SHORT)
        few = command.Stage(lambda work: make_pictures(Faces(FACES), work, 1, 2), "embeddings.npz")
        patch.setattr(command, "STAGES", {**command.STAGES, "pictures": few})
        patch.setattr(sys, "argv", ["training", str(folder / "work"), str(folder / "out")])
        threads = torch.get_num_threads()
        assert command.main() == 0
        torch.set_num_threads(threads)
    return folder


def test_every_stage_runs_and_leaves_a_checkpoint(trained):
    checkpoint = Checkpoint.open(str(trained / "out"))
    assert checkpoint.dims.face_embedding_width == 128
    assert file_digests(trained / "out")["faces/dlib_resnet_128.onnx"] == file_digests(FACES)["dlib_resnet_128.onnx"]


def test_training_moves_what_it_trains_and_the_decoder_stage_only_the_decoder(trained):
    first, second = (
        torch.load(trained / "work" / f"{name}.pt", weights_only=True)["average"] for name in ("vae", "decoder")
    )
    moved = {name.split(".")[0] for name in first if not torch.equal(first[name], second[name])}
    assert moved == {"decoder", "post_quant_conv"}


def test_a_stage_can_be_repeated_and_takes_those_after_it_along(tmp_path, monkeypatch):
    ran: list[str] = []

    def stage(name: str, made: str) -> command.Stage:
        return command.Stage(lambda work: (ran.append(name), (work / made).touch()), made)

    monkeypatch.setattr(command, "STAGES", {n: stage(n, f"{n}.npz") for n in ("a", "b", "c")})
    command.run_stages(tmp_path / "work")
    command.run_stages(tmp_path / "work")
    assert ran == ["a", "b", "c"]
    command.run_stages(tmp_path / "work", ("b",))
    assert ran == ["a", "b", "c", "b", "c"]


def _line(folder: Path, batch: Callable[[np.random.Generator, int], torch.Tensor]) -> torch.Tensor:
    """The weights of a line fitted for 12 steps to what ``batch`` draws for a step."""
    torch.manual_seed(3)
    model, steps = torch.nn.Linear(4, 1), itertools.count()

    def step(rng: np.random.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        x = batch(rng, next(steps))
        return (model(x) - x.sum(1, keepdim=True)).square().mean(), {}

    train(Run("line", folder, model, list(model.parameters())), Schedule(12, 1e-2), step)
    return model.weight.detach().clone()


def _draw(rng: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(rng.normal(size=(8, 4))).float()


def test_a_resumed_training_equals_an_unbroken_one(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loop, "SAVE_EVERY", 5)

    def batch(rng: np.random.Generator) -> torch.Tensor:
        return _draw(rng) + torch.randn(8, 4)

    def interrupted(rng: np.random.Generator, i: int) -> torch.Tensor:
        if i == 8:
            raise KeyboardInterrupt
        return batch(rng)

    for name in ("unbroken", "broken"):
        (tmp_path / name).mkdir()
    unbroken = _line(tmp_path / "unbroken", lambda rng, _: batch(rng))
    with pytest.raises(KeyboardInterrupt):
        _line(tmp_path / "broken", interrupted)
    assert (tmp_path / "broken" / "line.pt").exists()
    assert torch.equal(_line(tmp_path / "broken", lambda rng, _: batch(rng)), unbroken)
    assert "min left" in capsys.readouterr().err


def _one_of_two(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    weight = _line(folder, lambda rng, _: _draw(rng))
    dist.destroy_process_group()
    np.save(folder / f"{rank}.npy", weight.numpy())


def test_two_processes_train_as_one_with_the_batches_of_both(tmp_path):
    torch.multiprocessing.spawn(_one_of_two, (tmp_path,), nprocs=2)
    (tmp_path / "one").mkdir()
    one = _line(tmp_path / "one", lambda _, i: torch.cat([_draw(np.random.default_rng((i, rank))) for rank in (0, 1)]))
    for rank in (0, 1):
        assert np.load(tmp_path / f"{rank}.npy") == pytest.approx(one.numpy(), abs=1e-6)


def test_people_are_apart_by_the_encoder_and_found_by_the_detector(faces):
    embeddings = {}
    for name in PEOPLE:
        person = portrait(name)
        found = faces.detect(person.pixels)
        assert len(found) >= 1, name
        assert np.abs(found.keypoints[0] - person.keypoints).max() < 6, name
        embeddings[name] = faces.embed(person.pixels, person.keypoints)
    for a in PEOPLE:
        for b in PEOPLE:
            assert a == b or np.linalg.norm(embeddings[a] - embeddings[b]) >= MIN_DISTANCE, (a, b)


def test_a_placed_face_lies_where_it_is_said_to_lie(faces):
    fine, keypoints = placed(portrait("hopper"), Place(30, 9, 70, 58))
    assert np.linalg.norm(keypoints[1] - keypoints[0]) == pytest.approx(30)
    assert keypoints.mean(0) == pytest.approx((70, 58))
    found = faces.detect(averaged(fine)).keypoints[0]
    assert np.abs(found - keypoints).mean() < 1
    assert draw_keypoints(keypoints.astype(np.float32), 128, 128).any()


@pytest.mark.parametrize("style", STYLES)
def test_filters_keep_the_person(style, faces):
    for name in PEOPLE:
        person = portrait(name)
        fine, keypoints = placed(person, Place(32, 0, 64, 60))
        filtered = averaged(STYLES[style].filter(fine))
        assert np.linalg.norm(faces.embed(filtered, keypoints) - faces.embed(person.pixels, person.keypoints)) < 0.4


def test_the_torch_encoder_is_the_onnx_encoder(faces):
    person = portrait("astronaut")
    fine, keypoints = placed(person, Place(30, 5, 64, 60))
    picture = averaged(fine)
    grid = torch.nn.functional.affine_grid(crop_transform(keypoints, 128)[None], [1, 3, 150, 150], align_corners=False)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
    crop = torch.nn.functional.grid_sample(pixels, grid, align_corners=False)
    with torch.no_grad():
        embedding = torch_encoder(FACES)(crop)[0].numpy()
    # The runtime samples more finely and rounds the crop to bytes.
    assert np.linalg.norm(embedding - faces.embed(picture, keypoints)) < 0.1


def test_prompts_hold_the_presets_words_and_fit_the_tokenizer():
    prompts = training_prompts()
    assert any("venetian blind light" in prompts.texts[i] for i in prompts.of_style[list(STYLES).index("noir")])
    assert prompts.ids.shape[:2] == (2, len(prompts.texts))
    assert all(len(asking) > 30 for asking in prompts.of_style)


def test_signal_shares_are_the_schedulers():
    from diffusers import EulerDiscreteScheduler

    from instantrt_nano.maker import SCHEDULER

    torch.testing.assert_close(signal_shares(), EulerDiscreteScheduler.from_config(SCHEDULER).alphas_cumprod)
