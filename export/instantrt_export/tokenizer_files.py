"""A checkpoint's two tokenizers as files that the `tokenizers` package loads by itself."""

from __future__ import annotations

import json
from pathlib import Path

from instantrt.atomic import replace_text
from instantrt.bundle import tokenizer_files
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.supported import load_tokenizer


def write_tokenizers(checkpoint: Checkpoint, out: Path) -> None:
    """Writes ``tokenizer/`` and ``tokenizer_2/`` under ``out``.

    Each gets ``tokenizer.json`` and a ``tokenizer_config.json`` with the ids ``bos_id``, ``eos_id``, ``pad_id`` and
    ``max_length``: SDXL's two tokenizers share their vocabulary but not their padding.
    """
    for folder in (checkpoint.tokenizer_dir, checkpoint.tokenizer_2_dir):
        write_tokenizer(folder, out / folder.name, checkpoint.dims.text_tokens)


def write_tokenizer(source: Path, target: Path, max_length: int) -> None:
    """Converts one CLIP tokenizer folder (``vocab.json`` with ``merges.txt``, or ``tokenizer.json``)."""
    tokenizer = load_tokenizer(source)
    json_file, config_file = (target.parent / name for name in tokenizer_files(target.name))
    replace_text(json_file, tokenizer.backend_tokenizer.to_str(pretty=True))
    config = {
        "bos_id": tokenizer.bos_token_id,
        "eos_id": tokenizer.eos_token_id,
        "pad_id": tokenizer.pad_token_id,
        "max_length": max_length,
    }
    replace_text(config_file, json.dumps(config, indent=1) + "\n")
