"""What a section is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from instantrt.contracts import Precision


@dataclass(frozen=True)
class Options:
    """How and where a section runs.

    Args:
        dry_run: small sizes, and torch on the CPU.
        tree: the root of the source tree; None if the package is installed elsewhere.
        scratch: a folder for the section's files.
        bundle: the nano bundle, which another process may still be exporting; None: below ``scratch``'s parent.
    """

    dry_run: bool
    tree: Path | None
    scratch: Path
    bundle: Path | None

    @property
    def torch_device(self) -> torch.device:
        """Where torch computes. Sections that leave torch alone do not wait for its import."""
        import torch

        return torch.device("cpu" if self.dry_run else "cuda")

    @property
    def precision(self) -> Precision:
        """What loops compute in: in a dry run not in fp16, which takes minutes on CPUs."""
        return "fp32" if self.dry_run else "fp16"

    @property
    def dtype(self) -> torch.dtype:
        """The same for torch."""
        import torch

        return torch.float32 if self.dry_run else torch.float16

    def nano_bundle(self) -> Path:
        """The nano bundle's folder; waits while another process exports it."""
        from instantrt_nano.bundle import cached_bundle

        return self.bundle or cached_bundle(self.scratch.parent / "cache")
