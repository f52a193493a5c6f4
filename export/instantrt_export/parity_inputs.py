"""Inputs on which an exported network is held against its torch module: random ones, and such as a request gives it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt.conditioning.keypoints import draw_keypoints
from instantrt.contracts import STEP_ROWS, NetworkContract, Precision, TensorSpec, loop_buffer
from instantrt.request import GenerateRequest
from instantrt.samplers import HOLD_ROW, SchedulerConfig, step_table

Array = npt.NDArray[Any]

RECORDED = {
    "text_tokens": (0.22, 2.3),
    "pooled": (0.53, 2.7),
    "face_tokens": (0.74, 4.2),
    "control_features": (0.49, 6.1),
    "time_embeddings_unet": (0.47, 6.5),
    "time_embeddings_identitynet": (0.32, 5.7),
    "text_kv_unet": (0.21, 4.0),
    "face_kv_unet": (0.76, 5.4),
    "face_kv_identitynet": (0.62, 3.7),
    "residual": (2.1, 48.0),
    "final_latents": (0.97, 4.9),
}
"""Root mean square and largest absolute value of inputs by the name of their buffer, for what no network of the same
export gave. Recorded by ``python -m instantrt_bench.fidelity.input_ranges BUNDLE`` on the trained nano's bundle: the
default manifest's two portraits and its prompts, nine samplers, 30 steps; of the residuals those of the largest. Face
embeddings are not among them: standard normal numbers are larger than nano's."""

_KEPT_AS = {
    ("text_encoder", "hidden_states"): "text",
    ("text_encoder_2", "hidden_states"): "text_2",
    ("image_projection", "tokens"): "face_tokens",
    ("control_embedding", "features"): "control_features",
    ("time_embedding", "unet"): "time_embeddings_unet",
    ("time_embedding", "identitynet"): "time_embeddings_identitynet",
}


def random_trials(
    contract: NetworkContract,
    symbols: Sequence[Mapping[str, int]],
    precision: Precision,
    vocabulary: int = 0,
) -> Iterator[dict[str, Array]]:
    """Fresh random inputs for each set of sizes."""
    rng = np.random.default_rng()
    return (random_inputs(contract, sizes, precision, rng, vocabulary) for sizes in symbols)


def random_inputs(
    contract: NetworkContract,
    symbols: Mapping[str, int],
    precision: Precision,
    rng: np.random.Generator,
    vocabulary: int = 0,
) -> dict[str, Array]:
    """Standard normal numbers, and whatever else an input's meaning asks for."""
    return {spec.name: _random_input(spec, symbols, precision, rng, vocabulary) for spec in contract.inputs}


class RequestInputs:
    """Inputs as large as a request's, since overflow can depend on the picture.

    What a network is given by others is what these gave in the same export, in torch and fp32. Tables and latents are
    those of the sampler requests have unless they name one. For the rest, and for what networks would give that are
    not exported, see :data:`RECORDED`.

    Args:
        scheduler: the checkpoint's scheduler config.
        width: of the picture in pixels.
        height: likewise.
    """

    def __init__(self, scheduler: Mapping[str, Any], width: int, height: int) -> None:
        request = GenerateRequest
        self._table = step_table(
            request.sampler, request.steps, request.guidance_scale, SchedulerConfig.from_json(scheduler)
        )
        self.size = self._width, self._height = width, height
        self._given: dict[str, Array] = {}
        self._rng = np.random.default_rng()

    def keep(self, network: str, outputs: Mapping[str, Array]) -> None:
        """Remember what a network gave last, for those that come after it."""
        for name, values in outputs.items():
            self._given[_KEPT_AS.get((network, name), name)] = values

    def inputs(
        self, contract: NetworkContract, symbols: Mapping[str, int], precision: Precision, vocabulary: int = 0
    ) -> dict[str, Array]:
        """Inputs of a network at these sizes."""
        if {"text", "text_2"} <= self._given.keys():
            self._given["text_tokens"] = np.concatenate([self._given["text"], self._given["text_2"]], axis=-1)
        inputs = random_inputs(contract, symbols, precision, self._rng, vocabulary)
        for spec in contract.inputs:
            shape, dtype = spec.resolve(symbols), spec.numpy_dtype(precision)
            values = self._of_request(contract.name, spec.name, shape)
            if values is not None:
                inputs[spec.name] = np.resize(values, shape).astype(dtype)
        if "step" in inputs:
            self._at_random_steps(inputs)
        return inputs

    def _of_request(self, network: str, name: str, shape: tuple[int, ...]) -> Array | None:
        """Values of an input, to be repeated until they fill it; None for one that random numbers are right for."""
        buffer = loop_buffer(network, name)
        if network == "vae_decoder":
            buffer = "final_latents"
        if buffer in self._given:
            return self._given[buffer]
        if name == "image":
            return self._keypoint_picture()
        if name == "timesteps":
            return self._table.timesteps
        if name == "time_ids":
            return np.array([self._height, self._width, 0, 0, self._height, self._width], np.float32)
        kind = "residual" if name.startswith("residual_") else buffer
        return self._spread(*RECORDED[kind], shape) if kind in RECORDED else None

    def _spread(self, rms: float, largest: float, shape: tuple[int, ...]) -> Array:
        """Normal numbers of this size, of which one is as large as any."""
        values: Array = np.clip(rms * self._rng.standard_normal(shape, dtype=np.float32), -largest, largest)
        values.flat[self._rng.integers(values.size)] = largest
        return values

    def _keypoint_picture(self) -> Array:
        places = self._rng.random((5, 2), dtype=np.float32) * np.array(self.size, np.float32)
        return draw_keypoints(places, self._width, self._height)

    def _at_random_steps(self, inputs: dict[str, Array]) -> None:
        """Each slot at a step of its own, with latents as noisy as they are there."""
        rows = self._table.rows
        table = np.concatenate([rows, np.tile(HOLD_ROW, (STEP_ROWS - len(rows), 1))])
        inputs["step_table"] = np.resize(table, inputs["step_table"].shape).astype(np.float32)
        inputs["step"] = self._rng.integers(0, len(rows), inputs["step"].shape, dtype=np.int32)
        scale = (1 / rows[inputs["step"], 0])[:, None, None, None]  # networks are given latents of unit variance
        for name in ("latents", "history"):
            if name in inputs:
                inputs[name] = (inputs[name] * scale).astype(np.float32)


def _random_input(
    spec: TensorSpec, symbols: Mapping[str, int], precision: Precision, rng: np.random.Generator, vocabulary: int
) -> Array:
    shape, dtype = spec.resolve(symbols), spec.numpy_dtype(precision)
    if spec.name == "input_ids":
        return _random_texts(shape, vocabulary, rng).astype(dtype)
    if np.issubdtype(dtype, np.integer):
        return rng.integers(0, {"step": STEP_ROWS}.get(spec.name, 256), shape, dtype=dtype)
    if spec.name.partition("_mask_")[1]:
        return rng.random(shape, dtype=np.float32).astype(dtype)
    ranges = {"step_table": (0.5, 1.5), "timesteps": (0, 999), "time_ids": (0, 1024)}
    if spec.name in ranges:
        return rng.uniform(*ranges[spec.name], shape).astype(dtype)
    return rng.standard_normal(shape, dtype=np.float32).astype(dtype)


def _random_texts(shape: tuple[int, ...], vocabulary: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Token ids [R, 77] that end somewhere after the first token, as texts do.

    CLIP's pooled output is that of the end token, its last id. Without one it would be that of the first token, which
    attends to nothing but itself, so that errors in the last layer's attention would not show.
    """
    ids = rng.integers(0, vocabulary - 1, shape)
    ids[np.arange(shape[0]), rng.integers(1, shape[1], shape[0])] = vocabulary - 1
    return ids
