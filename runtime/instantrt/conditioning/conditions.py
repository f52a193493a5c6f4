"""The diffusion side of conditioning: text, face tokens, control features, time embeddings and masks of one request."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt.bundle import Bundle
from instantrt.cache import BoundedCache
from instantrt.conditioning.masks import adapter_mask, control_mask
from instantrt.conditioning.text import PromptTokenizer
from instantrt.contracts import ModelDims
from instantrt.device import Buffer
from instantrt.engine import Target
from instantrt.finite import require_finite
from instantrt.network import Network
from instantrt.plain import shortened
from instantrt.residency import Loading
from instantrt.samplers import StepTable

Array = npt.NDArray[Any]
TOKENIZERS = ("tokenizer", "tokenizer_2")
PROMPTS = 128  # each SDXL prompt takes 318 KB in fp16
FACES = 64


@dataclass(frozen=True)
class TextConditions:
    """tokens [G, 77, width] and pooled [G, width], negative row first; and what the caller should know."""

    tokens: Array
    pooled: Array
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class EncodedText:
    """One text: tokens [77, width], pooled [width], and the ends of it that did not fit a tokenizer."""

    tokens: Array
    pooled: Array
    lost: tuple[str, ...]


@dataclass(frozen=True)
class TimeEmbeddings:
    """Outputs of ``time_embedding``: [n, G, width] for each of the loop's networks."""

    unet: Buffer
    identitynet: Buffer


@dataclass(frozen=True)
class KeysAndValues:
    """Outputs of ``cross_attention``: [G, tokens, width], all attentions of a network side by side."""

    text_kv_unet: Buffer
    face_kv_unet: Buffer
    face_kv_identitynet: Buffer


class Conditions:
    """Runs the conditioning networks and remembers recent texts and faces. Owns its engines.

    Args:
        bundle: brings networks and tokenizers.
        target: executes them; stays the caller's.
        on_demand: as in :class:`Network`.
    """

    def __init__(self, bundle: Bundle, target: Target, on_demand: Loading | None = None) -> None:
        self._force_zeros = bundle.manifest.force_zeros_for_empty_prompt
        self._embedding_width = bundle.dims.face_embedding_width
        self._tokenizers = [
            PromptTokenizer(bundle.file(f"{folder}/tokenizer.json"), bundle.file(f"{folder}/tokenizer_config.json"))
            for folder in TOKENIZERS
        ]
        self.texts: BoundedCache[str, EncodedText] = BoundedCache(PROMPTS)
        self.faces: BoundedCache[bytes, Array] = BoundedCache(FACES)
        self._networks: list[Network] = []
        with ExitStack() as owned:

            def network(name: str) -> Network:
                made = Network(target, bundle.contracts[name], bundle.precision, on_demand)
                self._networks.append(made)
                return owned.enter_context(closing(made))

            self._text_encoders = (network("text_encoder"), network("text_encoder_2"))
            self._image_projection = network("image_projection")
            self._control_embedding = network("control_embedding")
            self._time_embedding = network("time_embedding")
            self._cross_attention = network("cross_attention")
            self._owned = owned.pop_all()

    def text(self, prompt: str, negative_prompt: str | None, guidance_batch: int) -> TextConditions:
        """Encode the prompt, and with guidance the negative prompt before it.

        A negative prompt of None gives zeros if the checkpoint asks for it, as in diffusers; "" is encoded.
        """
        named = {"negative prompt": negative_prompt or "", "prompt": prompt}
        if guidance_batch == 1:
            del named["negative prompt"]
        texts = [self._cached(text) for text in named.values()]
        tokens = np.stack([text.tokens for text in texts])
        pooled = np.stack([text.pooled for text in texts])
        if guidance_batch == 2 and negative_prompt is None and self._force_zeros:
            tokens[0], pooled[0] = 0, 0
        lost = {(name, end): None for name, text in zip(named, texts, strict=True) for end in text.lost}  # each once
        return TextConditions(tokens, pooled, tuple(_too_long(name, end) for name, end in lost))

    def face_tokens(self, embedding: Array, guidance_batch: int) -> Array:
        """Face tokens [G, 16, width]; the negative row is the projection of a zero embedding."""
        tokens = self.faces.get(embedding.tobytes(), lambda: self._project(embedding[None]))
        return tokens if guidance_batch == 1 else np.concatenate([self._negative_face_tokens, tokens])

    def control_features(self, control_image: npt.NDArray[np.uint8]) -> Buffer:
        """Features [channels, H/8, W/8] of a keypoint picture u8 [H, W, 3]; on the device until the next call."""
        return self._control_embedding.run({"image": control_image[None]})["features"].at(0)

    def time_embeddings(self, table: StepTable, pooled: Array, width: int, height: int) -> TimeEmbeddings:
        """One time embedding per row of the table for each of the loop's networks.

        They stay on the device and are valid until the next call.
        """
        time_ids = np.asarray([[height, width, 0, 0, height, width]] * len(pooled), np.float32)
        inputs = {"timesteps": table.timesteps, "pooled": pooled, "time_ids": time_ids}
        return TimeEmbeddings(**self._time_embedding.run(inputs))

    def cross_attention(self, text_tokens: Array, face_tokens: Array) -> KeysAndValues:
        """Keys and values of all cross-attentions.

        They stay on the device and are valid until the next call.
        """
        return KeysAndValues(**self._cross_attention.run({"text_tokens": text_tokens, "face_tokens": face_tokens}))

    def unload(self) -> None:
        """Release engines that are loaded on demand; what they computed stays on the device."""
        for network in self._networks:
            network.unload()

    def close(self) -> None:
        """Release the engines; may be called more than once."""
        self._owned.close()

    @cached_property
    def _negative_face_tokens(self) -> Array:
        return self._project(np.zeros((1, self._embedding_width), np.float32))

    def _project(self, embedding: Array) -> Array:
        tokens = self._image_projection({"embedding": embedding})["tokens"]
        return require_finite("image_projection", "tokens", tokens)

    def _cached(self, text: str) -> EncodedText:
        """Texts are encoded one by one, so that what a text gives does not depend on what it came with."""
        return self.texts.get(text, lambda: self._encode(text))

    def _encode(self, text: str) -> EncodedText:
        encoded = [tokenizer.encode(text) for tokenizer in self._tokenizers]
        first, second = (
            network({"input_ids": tokens.ids[None]})
            for network, tokens in zip(self._text_encoders, encoded, strict=True)
        )
        for network, outputs in (("text_encoder", first), ("text_encoder_2", second)):
            for output, values in outputs.items():
                require_finite(network, output, values)
        tokens = np.concatenate([first["hidden_states"][0], second["hidden_states"][0]], axis=-1)
        return EncodedText(tokens, second["pooled"][0], tuple(e.lost_text for e in encoded if e.lost_text))


def _too_long(name: str, end: str) -> str:
    return f"the {name} is too long for CLIP's 77 tokens, ignored: {shortened(end)!r}"


def condition_masks(
    dims: ModelDims,
    region: npt.NDArray[np.float32],
    identity_strength: float,
    adapter_strength: float,
) -> Mapping[str, npt.NDArray[np.float32]]:
    """The loop's mask inputs by name, strengths multiplied in. ``region`` is f32 [H, W], all ones for no mask."""
    control = {f"control_mask_{s}": identity_strength * control_mask(region, s) for s in dims.control_strides}
    adapter = {f"adapter_mask_{s}": adapter_strength * adapter_mask(region, s) for s in dims.adapter_strides}
    return control | adapter
