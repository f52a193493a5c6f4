"""The runtime's token ids are those of the checkpoint's own tokenizers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from instantrt.conditioning.text import PromptTokenizer

PAIRS = dict[str, tuple[PromptTokenizer, CLIPTokenizer]]


@pytest.fixture(scope="module")
def tokenizers(nano_bundle: Path, nano_checkpoint: Path) -> PAIRS:
    return {
        name: (
            PromptTokenizer(nano_bundle / name / "tokenizer.json", nano_bundle / name / "tokenizer_config.json"),
            CLIPTokenizer.from_pretrained(nano_checkpoint / name),
        )
        for name in ("tokenizer", "tokenizer_2")
    }


def assert_same(tokenizers: PAIRS, text: str) -> None:
    for ours, theirs in tokenizers.values():
        expected = theirs(text, padding="max_length", max_length=77, truncation=True).input_ids
        encoded = ours.encode(text)
        assert encoded.ids.dtype == np.int32
        np.testing.assert_array_equal(encoded.ids, expected)
        assert bool(encoded.lost_text) == (len(theirs(text).input_ids) > 77)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a photo",
        "Film NOIR,  portrait!",
        "xyzzy 42 naïve café 日本",
        "don't",
        "photo " * 75,
        "photo " * 76,
        "😀" * 50,
    ],
)
def test_known_texts(tokenizers: PAIRS, text: str) -> None:
    assert_same(tokenizers, text)


@given(text=st.text(max_size=200))
def test_any_text(tokenizers: PAIRS, text: str) -> None:
    assert_same(tokenizers, text)


def test_the_second_tokenizer_pads_with_another_token(tokenizers: PAIRS) -> None:
    first, second = (ours.encode("a photo").ids[-1] for ours, _ in tokenizers.values())
    assert first != second
