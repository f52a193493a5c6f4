"""A checkpoint's two tokenizers as files that the `tokenizers` package loads by itself."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import CLIPTokenizerFast, PreTrainedTokenizerFast

from instantrt_export.checkpoint import Checkpoint


def write_tokenizers(checkpoint: Checkpoint, out: Path) -> None:
    """Writes ``tokenizer/`` and ``tokenizer_2/`` under ``out``.

    Each gets ``tokenizer.json`` and a ``tokenizer_config.json`` with the ids ``bos_id``, ``eos_id``, ``pad_id`` and
    ``max_length``: SDXL's two tokenizers share their vocabulary but not their padding.
    """
    for folder in (checkpoint.tokenizer_dir, checkpoint.tokenizer_2_dir):
        write_tokenizer(folder, out / folder.name, checkpoint.dims.text_tokens)


def write_tokenizer(source: Path, target: Path, max_length: int) -> None:
    """Converts one CLIP tokenizer folder (``vocab.json`` with ``merges.txt``, or ``tokenizer.json``)."""
    tokenizer: PreTrainedTokenizerFast = CLIPTokenizerFast.from_pretrained(source, local_files_only=True)
    target.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(target / "tokenizer.json"))
    config = {
        "bos_id": tokenizer.bos_token_id,
        "eos_id": tokenizer.eos_token_id,
        "pad_id": tokenizer.pad_token_id,
        "max_length": max_length,
    }
    (target / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
