"""Networks that OpenVINO compiled on this machine, kept on disk between starts.

A file is named by a digest of all that it depends on, so one of another bundle, version or machine is never looked at,
and ends with the digest of what is in it, so a damaged one is compiled anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt.atomic import replace_file
from instantrt.errors import OutputError

LOGGER = logging.getLogger(__name__)
DIGEST_BYTES = hashlib.sha256().digest_size

Blob = npt.NDArray[np.uint8]


def file_name(network: str, facts: Mapping[str, Any]) -> str:
    """The name of a compiled network's file.

    Args:
        network: its name.
        facts: all that the compiled network depends on, as JSON has it.
    """
    text = json.dumps(facts, sort_keys=True)
    return f"{network}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.blob"


class CompiledCache:
    """One folder of compiled networks.

    Args:
        folder: where the files are, made when needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: str) -> Blob | None:
        """What is kept under that name, u8 [bytes]; None if nothing is, or it is damaged."""
        path = self._folder / name
        if not path.is_file():
            return None
        content = np.fromfile(path, np.uint8)
        blob, digest = content[:-DIGEST_BYTES], content[-DIGEST_BYTES:].tobytes()
        if hashlib.sha256(blob.data).digest() == digest:
            return blob
        LOGGER.warning("%s is damaged; the network is compiled anew", path)
        return None

    def keep(self, name: str, blob: memoryview) -> None:
        """Write a file in one atomic step.

        A folder that cannot be written costs compiling again at the next start, so it is logged and no error.
        """
        content = (blob, hashlib.sha256(blob).digest())
        try:
            replace_file(self._folder / name, lambda file: file.writelines(content))
        except OutputError as error:
            LOGGER.warning("a compiled network is not kept for the next start: %s", error.found)
