"""Who may call a pipeline and when, with how many threads, and what it says of texts that do not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from instantrt import GenerateRequest, InstantID, PipelineError, RequestError
from instantrt.engine import TargetOptions
from instantrt.threads import usable_cpus, useful_threads


@pytest.fixture(scope="module")
def pipeline(nano_bundle: Path) -> Iterator[InstantID]:
    with InstantID.load(nano_bundle, threads=1) as loaded:
        yield loaded


@pytest.fixture
def request_4(astronaut: npt.NDArray[np.uint8]) -> GenerateRequest:
    return GenerateRequest(face=astronaut, prompt="portrait photo", steps=4, seed=5, width=64, height=64)


CALLS: dict[str, Callable[[InstantID, GenerateRequest], Any]] = {
    "run": lambda pipeline, request: pipeline.run(request),
    "prepare": lambda pipeline, request: pipeline.prepare(request),
    "close": lambda pipeline, request: pipeline.close(),
}


@pytest.mark.timeout(60, func_only=True)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("callback", ["progress", "cancelled"])
def test_a_call_from_a_requests_own_callback_is_an_error_instead_of_a_hang(
    pipeline: InstantID, request_4: GenerateRequest, call: str, callback: str
) -> None:
    before = pipeline.run(request_4)

    def again(*_: int) -> bool:
        CALLS[call](pipeline, request_4)
        return False

    with pytest.raises(PipelineError, match="its own progress or cancelled callback"):
        pipeline.run(request_4, **{callback: again})
    np.testing.assert_array_equal(before.pixels, pipeline.run(request_4).pixels)


@pytest.mark.timeout(60, func_only=True)
def test_a_call_from_another_thread_waits_and_is_answered(pipeline: InstantID, request_4: GenerateRequest) -> None:
    answers: list[np.ndarray] = []
    thread = Thread(target=lambda: answers.append(pipeline.run(request_4).pixels))
    first = pipeline.run(request_4, progress=lambda done, total: thread.start() if done == 1 else None)
    thread.join()
    np.testing.assert_array_equal(first.pixels, answers[0])


def test_a_closed_pipeline_says_so(nano_bundle: Path, request_4: GenerateRequest) -> None:
    pipeline = InstantID.load(nano_bundle, threads=1)
    pipeline.close()
    pipeline.close()
    for call in (pipeline.run, pipeline.prepare):
        with pytest.raises(PipelineError, match="the pipeline is closed"):
            call(request_4)


def test_more_threads_than_cpus_are_capped_with_a_warning_in_every_result(
    nano_bundle: Path, request_4: GenerateRequest
) -> None:
    with InstantID.load(nano_bundle, threads=1000) as pipeline:
        assert pipeline._target._threads == usable_cpus()  # type: ignore[attr-defined]
        warnings = [pipeline.run(request_4).warnings for _ in range(2)]
    assert warnings[0] == warnings[1]
    assert warnings[0][0].startswith(f"{usable_cpus()} threads instead of 1000")


def test_as_many_threads_as_cpus_are_nothing_to_warn_of() -> None:
    assert useful_threads(usable_cpus()) == (usable_cpus(), ())
    assert useful_threads(1) == (1, ())


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", True, 10**400], ids=lambda value: str(value)[:8])
def test_a_number_of_threads_that_makes_no_sense_is_refused(nano_bundle: Path, threads: Any) -> None:
    with pytest.raises(RequestError, match="threads must be"):
        InstantID.load(nano_bundle, threads=threads)


@pytest.mark.parametrize("name", ["device", "weight_budget_bytes"])
def test_options_of_targets_are_numbers_as_well(name: str) -> None:
    assert getattr(TargetOptions(**{name: np.float32(2)}), name) == 2
    for wrong in (-1, 0.5, "0"):
        with pytest.raises(RequestError, match=f"{name} must be"):
            TargetOptions(**{name: wrong})


def test_weights_by_stage_give_the_same_pictures_on_the_cpu(
    nano_bundle: Path, pipeline: InstantID, request_4: GenerateRequest
) -> None:
    with InstantID.load(nano_bundle, threads=1, residency="staged") as staged:
        for request in (request_4, replace(request_4, guidance_scale=1.0), request_4):
            found, expected = staged.run(request), pipeline.run(request)
            np.testing.assert_array_equal(found.latents, expected.latents)
            np.testing.assert_array_equal(found.pixels, expected.pixels)
            assert found.timings.stages_ms["load"] > 0


@pytest.mark.parametrize(
    ("residency", "message"),
    [
        ("streaming", "onnxruntime has no residency streaming"),
        ("auto", "onnxruntime has no residency auto"),
        ("swapped", "unknown residency\nFound: 'swapped'\nTo do: use one of: resident, staged, streaming, auto"),
        (["staged"], "unknown residency"),
    ],
)
def test_a_residency_that_there_is_not_is_refused(nano_bundle: Path, residency: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        InstantID.load(nano_bundle, residency=residency)


@pytest.mark.parametrize("target", ["tensorflow", "", None, ["onnxruntime"]], ids=repr)
def test_an_unknown_target_lists_the_known_ones(nano_bundle: Path, target: Any) -> None:
    with pytest.raises(RequestError, match=r"unknown target\nFound: .*\nTo do: use one of: onnxruntime"):
        InstantID.load(nano_bundle, target=target)


LONG = "portrait " * 75


def test_a_negative_prompt_that_is_too_long_is_not_called_the_prompt(
    pipeline: InstantID, request_4: GenerateRequest
) -> None:
    result = pipeline.run(replace(request_4, negative_prompt=LONG + "zebra"))
    assert result.warnings == ("the negative prompt is too long for CLIP's 77 tokens, ignored: 'zebra'",)
    both = pipeline.run(replace(request_4, negative_prompt=LONG + "zebra", prompt=LONG + "zebra"))
    assert [warning.partition(" is too")[0] for warning in both.warnings] == ["the negative prompt", "the prompt"]


def test_without_guidance_nothing_is_said_of_the_negative_prompt(
    pipeline: InstantID, request_4: GenerateRequest
) -> None:
    result = pipeline.run(replace(request_4, negative_prompt=LONG + "zebra", guidance_scale=1))
    assert result.warnings == ()


def test_a_book_of_lost_words_is_not_printed_in_full(pipeline: InstantID, request_4: GenerateRequest) -> None:
    (warning,) = pipeline.run(replace(request_4, prompt=LONG * 20)).warnings
    assert len(warning) < 400
