"""What the commands that make pictures load: bundle, checkpoint, manifest, cases, and both pipelines."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from instantrt import Bundle, InstantID
from instantrt_bench.cases import Case, Settings, cases_of
from instantrt_bench.machine import usable_cpus
from instantrt_bench.manifest import Manifest, default_manifest, read_manifest
from instantrt_bench.reference import Reference
from instantrt_export.checkpoint import Checkpoint

EXIT_FAILED = 3  # of commands that judge: not a mistake of the user, but a result that is not good enough


@dataclass(frozen=True)
class Loaded:
    """What a run of cases needs, as the arguments name it."""

    bundle: Bundle
    checkpoint: Checkpoint
    manifest: Manifest
    cases: list[Case]
    threads: int
    target: str
    options: dict[str, Any]

    @property
    def system(self) -> str:
        """The runtime's system id in results."""
        return f"runtime-{self.target}"

    @property
    def target_threads(self) -> int | None:
        """Plans run on the GPU and take no thread count."""
        return self.threads if self.target == "onnxruntime" else None


def load_cases(args: argparse.Namespace, samplers: list[str]) -> Loaded:
    """Open everything that arguments name, so that mistakes show before anything runs.

    Raises:
        InstantRTError: a mistake in the arguments or in what they name.
    """
    manifest = default_manifest() if args.manifest is None else read_manifest(args.manifest)
    settings = Settings(
        steps=args.steps,
        guidance_scale=args.guidance_scale,
        identity_strength=args.identity_strength,
        adapter_strength=args.adapter_strength,
        enhance_face_region=args.enhance_face_region,
        size=args.size,
    )
    cases = cases_of(manifest, args.seeds, samplers, settings)
    names = ("target", "steps", "guidance_scale", "identity_strength", "adapter_strength", "enhance_face_region")
    options = {name: getattr(args, name) for name in names}
    options |= {"size": args.size, "seeds": args.seeds, "samplers": samplers, "manifest": manifest.facts()}
    return Loaded(
        Bundle.open(args.bundle),
        Checkpoint.open(args.checkpoint),
        manifest,
        cases,
        args.threads or usable_cpus(),
        args.target,
        options,
    )


@contextmanager
def pipelines(loaded: Loaded) -> Iterator[tuple[InstantID, Reference]]:
    """The runtime on its target, and the reference."""
    reference = Reference.load(loaded.checkpoint, threads=loaded.threads)
    with InstantID.load(loaded.bundle.folder, target=loaded.target, threads=loaded.target_threads) as runtime:
        yield runtime, reference
