"""The prelude's diffusion side: text, face tokens, control features, time embeddings and masks of one request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt.bundle import Bundle
from instantrt.contracts import ModelDims
from instantrt.engine import Target
from instantrt.network import Network
from instantrt.prelude.masks import adapter_mask, control_mask
from instantrt.prelude.text import PromptTokenizer
from instantrt.samplers import StepTable

Array = npt.NDArray[Any]
TOKENIZERS = ("tokenizer", "tokenizer_2")


@dataclass(frozen=True)
class TextConditions:
    """tokens [G, 77, width] and pooled [G, width], negative half first; and what the caller should know."""

    tokens: Array
    pooled: Array
    warnings: tuple[str, ...]


class Conditions:
    """Runs the prelude's diffusion networks. Owns their engines."""

    def __init__(self, bundle: Bundle, target: Target) -> None:
        def network(name: str) -> Network:
            return Network(target, bundle.contracts[name], bundle.precision)

        self._force_zeros = bundle.manifest.force_zeros_for_empty_prompt
        self._embedding_width = bundle.dims.face_embedding_width
        self._tokenizers = [
            PromptTokenizer(bundle.file(f"{folder}/tokenizer.json"), bundle.file(f"{folder}/tokenizer_config.json"))
            for folder in TOKENIZERS
        ]
        self._text_encoder = network("text_encoder")
        self._text_encoder_2 = network("text_encoder_2")
        self._image_projection = network("image_projection")
        self._control_embedding = network("control_embedding")
        self._time_embedding = network("time_embedding")

    def text(self, prompt: str, negative_prompt: str | None, halves: int) -> TextConditions:
        """Encode the prompt, and with two halves the negative prompt before it.

        A negative prompt of None gives zeros if the checkpoint asks for it, as in diffusers; "" is encoded.
        """
        prompts = [prompt] if halves == 1 else [negative_prompt or "", prompt]
        ids, warnings = self._tokenize(prompts)
        first = self._text_encoder({"input_ids": ids[0]})
        second = self._text_encoder_2({"input_ids": ids[1]})
        tokens = np.concatenate([first["hidden_states"], second["hidden_states"]], axis=-1)
        pooled = second["pooled"]
        if halves == 2 and negative_prompt is None and self._force_zeros:
            tokens[0], pooled[0] = 0, 0
        return TextConditions(tokens, pooled, warnings)

    def face_tokens(self, embedding: Array, halves: int) -> Array:
        """Face tokens [G, 16, width]; the negative half is the projection of a zero embedding."""
        tokens = self._image_projection({"embedding": embedding[None]})["tokens"]
        return tokens if halves == 1 else np.concatenate([self._negative_face_tokens, tokens])

    def control_features(self, control_image: npt.NDArray[np.uint8]) -> Array:
        """Features [channels, H/8, W/8] of a keypoint picture u8 [H, W, 3]."""
        features: Array = self._control_embedding({"image": control_image[None]})["features"][0]
        return features

    def time_embeddings(self, table: StepTable, pooled: Array, width: int, height: int) -> dict[str, Array]:
        """One time embedding [n, G, width] per row of the table, for ``unet`` and ``identitynet``."""
        time_ids = np.asarray([[height, width, 0, 0, height, width]] * len(pooled), np.float32)
        return self._time_embedding({"timesteps": table.timesteps, "pooled": pooled, "time_ids": time_ids})

    def close(self) -> None:
        """Release the engines; may be called more than once."""
        for network in vars(self).values():
            if isinstance(network, Network):
                network.close()

    @cached_property
    def _negative_face_tokens(self) -> Array:
        zeros = np.zeros((1, self._embedding_width), np.float32)
        return self._image_projection({"embedding": zeros})["tokens"]

    def _tokenize(self, prompts: list[str]) -> tuple[list[Array], tuple[str, ...]]:
        ids: list[Array] = []
        lost: dict[str, None] = {}  # each lost text once, in order
        for tokenizer in self._tokenizers:
            encoded = [tokenizer.encode(text) for text in prompts]
            ids.append(np.stack([e.ids for e in encoded]))
            lost |= {e.lost_text: None for e in encoded if e.lost_text}
        return ids, tuple(f"the prompt is too long for CLIP's 77 tokens, ignored: {text!r}" for text in lost)


def condition_masks(
    dims: ModelDims,
    region: npt.NDArray[np.float32],
    identity_strength: float,
    adapter_strength: float,
) -> Mapping[str, npt.NDArray[np.float32]]:
    """The loop's mask inputs by name, strengths multiplied in. ``region`` is f32 [H, W], all ones for no mask."""
    control = {f"control_mask_{s}": identity_strength * control_mask(region, s) for s in dims.control_scales}
    adapter = {f"adapter_mask_{s}": adapter_strength * adapter_mask(region, s) for s in dims.adapter_scales}
    return control | adapter
