"""Prompts to token ids, as CLIP's tokenizer in diffusers does it: at most 75 tokens between start and end, padded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer


@dataclass(frozen=True)
class Tokens:
    """An encoded prompt: ids int32 [length], and the end of the prompt that did not fit."""

    ids: npt.NDArray[np.int32]
    lost_text: str


class PromptTokenizer:
    """One of a checkpoint's two tokenizers.

    Args:
        tokenizer_json: the `tokenizers` library's file.
        config_json: bos, eos and padding ids and the length, written by the export.
    """

    def __init__(self, tokenizer_json: Path, config_json: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        config: dict[str, Any] = json.loads(config_json.read_text(encoding="utf-8"))
        self._bos, self._eos = int(config["bos_id"]), int(config["eos_id"])
        self._pad, self._length = int(config["pad_id"]), int(config["max_length"])

    def encode(self, text: str) -> Tokens:
        """Token ids int32 [77], and what was cut off."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        room = self._length - 2
        kept = encoding.ids[:room]
        lost = text[encoding.offsets[room][0] :] if len(encoding.ids) > room else ""
        ids = [self._bos, *kept, self._eos]
        ids += [self._pad] * (self._length - len(ids))
        return Tokens(np.asarray(ids, np.int32), lost)
