"""A small CLIP tokenizer: byte-level byte-pair encoding, learned from a committed list of prompts.

Any text can be encoded: what the list does not know falls apart into bytes. The order of the vocabulary is CLIP's own:
256 byte characters, the same at the end of a word, the merged pieces, then the two special tokens.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib import resources
from itertools import pairwise
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
MAX_MERGES = 186  # makes a vocabulary of 700
TOKENS = 77

Pair = tuple[str, str]


def learn_merges(text: str, limit: int = MAX_MERGES) -> list[Pair]:
    """Byte-pair encoding (Sennrich et al., 2016, algorithm 1) over lower-case ASCII words; ties go by spelling."""
    words = Counter(re.findall(r"[a-z]+", text.lower()))
    pieces = {word: [*word[:-1], word[-1] + WORD_END] for word in words}
    merges: list[Pair] = []
    while len(merges) < limit:
        counts: Counter[Pair] = Counter()
        for word, split in pieces.items():
            for pair in pairwise(split):
                counts[pair] += words[word]
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        pieces = {word: _merge(split, best) for word, split in pieces.items()}
    return merges


def vocabulary(merges: list[Pair]) -> dict[str, int]:
    """Token to id, in CLIP's order. Id 0 is ``!``, with which SDXL's second tokenizer pads."""
    characters = sorted(ByteLevel.alphabet())
    tokens = [*characters, *(c + WORD_END for c in characters), *(a + b for a, b in merges), START, END]
    return {token: i for i, token in enumerate(tokens)}


def write_tokenizer(folder: Path, padding: str) -> int:
    """Writes a tokenizer folder as SDXL's (and ``tokenizer.json`` beside it) that pads with the token ``padding``.

    Returns:
        The size of the vocabulary.
    """
    folder.mkdir(parents=True)
    merges = learn_merges(resources.files(__package__).joinpath("words.txt").read_text(encoding="utf-8"))
    vocab = vocabulary(merges)
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    _write_json(folder / "vocab.json", vocab)
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": padding}
    _write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": TOKENS, "do_lower_case": True, **special}
    _write_json(folder / "tokenizer_config.json", config)
    CLIPTokenizer.from_pretrained(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))
    return len(vocab)


def _merge(split: list[str], pair: Pair) -> list[str]:
    merged: list[str] = []
    for piece in split:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def _write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
