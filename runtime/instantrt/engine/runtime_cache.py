"""Kernels that TensorRT-RTX compiled on this machine, kept on disk between starts."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from instantrt.atomic import replace_file
from instantrt.errors import OutputError

LOGGER = logging.getLogger(__name__)


class RuntimeCache:
    """One cache shared by all contexts of a target.

    TensorRT-RTX itself checks a cache against its version, the driver and the GPU and refuses one that does not fit;
    it is then filled anew and replaces the old file.

    Args:
        folder: where the file is, made when needed.
        compute_capability: of the GPU, so that different GPUs of one machine do not take turns replacing one file.
    """

    def __init__(self, folder: Path, compute_capability: str) -> None:
        self.path = folder / f"kernels-{compute_capability}.cache"
        self._cache: Any = None
        self._on_disk = b""

    def attach(self, config: Any) -> None:
        """Let a context made from ``config`` (an ``IRuntimeConfig``) take its kernels from here and leave them here."""
        if self._cache is None:
            self._cache = config.create_runtime_cache()
            if self.path.is_file():
                self._restore()
        config.set_runtime_cache(self._cache)

    def save(self) -> None:
        """Write the file anew in one atomic step if there are new kernels.

        A folder that cannot be written costs compiling again at the next start, so it is logged and no error.
        """
        if self._cache is None:
            return
        kernels = bytes(self._cache.serialize())
        if kernels == self._on_disk:
            return
        try:
            replace_file(self.path, lambda file: file.write(kernels))
        except OutputError as error:
            LOGGER.warning("compiled kernels are not kept for the next start: %s", error.found)
            return
        self._on_disk = kernels

    def close(self) -> None:
        """Save and release; may be called more than once."""
        self.save()
        self._cache = None

    def _restore(self) -> None:
        kernels = self.path.read_bytes()
        if self._cache.deserialize(kernels):
            self._on_disk = kernels
        else:
            LOGGER.info("%s is of another version, driver or GPU; kernels are compiled anew", self.path)
