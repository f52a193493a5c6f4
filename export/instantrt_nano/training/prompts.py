"""The texts of training: what asks for each style, what is asked away, and their tokens."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from instantrt_nano.tokenizer import END, TOKENS, write_tokenizer
from instantrt_nano.training.styles import STYLES, TrainedStyle

SUBJECTS = ("a person", "portrait of a person", "photo of a person", "a portrait")
CHATTER = 48  # random texts that stand for whatever people write
STYLE_WORDS = frozenset(
    ["film", "noir", "black", "white", "vibrant", "color", "colorful", "watercolor", "painting", "bold", "line", "art"]
)


@dataclass(frozen=True)
class Prompts:
    """All training texts.

    Args:
        texts: the texts.
        of_style: per style, in the order of :data:`STYLES`, the places of the texts that ask for it; the same text
            may be named more than once, and is then drawn more often.
        negatives: the places of negative prompts.
        ids: i64 [2, n, TOKENS], the tokens for both text encoders.
    """

    texts: tuple[str, ...]
    of_style: tuple[tuple[int, ...], ...]
    negatives: tuple[int, ...]
    ids: Tensor


def training_prompts() -> Prompts:
    """Always the same."""
    rng = np.random.default_rng(0)
    chatter = [_chatter(rng) for _ in range(CHATTER)]
    per_style = [_asking_for(style, chatter) for style in STYLES.values()]
    negatives = sorted({text for style in STYLES.values() for text in style.negatives()})
    texts = list(dict.fromkeys([text for asking in per_style for text in asking] + negatives))
    place = {text: i for i, text in enumerate(texts)}
    return Prompts(
        tuple(texts),
        tuple(tuple(place[text] for text in asking) for asking in per_style),
        tuple(place[text] for text in negatives),
        torch.stack([_ids(texts, padding) for padding in (END, "!")]),
    )


def _asking_for(style: TrainedStyle, chatter: list[str]) -> list[str]:
    """The short prompts about as often as all longer ones together."""
    if style.template is None:
        longer = chatter
    else:
        longer = [style.template.format(prompt=text) for text in (*SUBJECTS, *style.prompts, *chatter[: CHATTER // 2])]
    return [*style.prompts * (len(longer) // len(style.prompts)), *longer]


def _chatter(rng: np.random.Generator) -> str:
    """A few lines of the tokenizer's word list cut short, without words that ask for a style."""
    lines = resources.files("instantrt_nano").joinpath("words.txt").read_text(encoding="utf-8").split("\n")
    words = [word for i in rng.integers(0, len(lines), 2) for word in lines[i].split() if word not in STYLE_WORDS]
    start = int(rng.integers(0, max(1, len(words) - 3)))
    opening = rng.choice(["", "portrait of", "a person,"])
    return " ".join([opening, *words[start : start + int(rng.integers(2, 8))]]).strip()


def _ids(texts: list[str], padding: str) -> Tensor:
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder) / "tokenizer", padding)
        tokenizer = CLIPTokenizer.from_pretrained(Path(folder) / "tokenizer")
    ids: Tensor = tokenizer(
        texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return ids
