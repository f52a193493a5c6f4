"""Fixtures of the micro benchmarks. They are no tests: `pytest bench/micro` runs them, `pytest` alone does not."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from instantrt.samplers import SchedulerConfig

SDXL_SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}


@pytest.fixture(scope="session")
def sdxl_scheduler() -> SchedulerConfig:
    """The schedule of SDXL's base checkpoint."""
    return SchedulerConfig.from_json(SDXL_SCHEDULER)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """OpenCV's threads wait for each other, which on a busy machine doubles its times."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    yield
    cv2.setNumThreads(before)


@pytest.fixture
def rng() -> np.random.Generator:
    """The same numbers in every run: equal work."""
    return np.random.default_rng(0)
