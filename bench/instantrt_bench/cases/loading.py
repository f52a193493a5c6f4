"""What the commands that make pictures load: bundle, checkpoint, manifest, cases, and both pipelines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from instantrt import Bundle, InstantID
from instantrt.engine import PrecisionHint, TargetOptions
from instantrt.prepare import check_request
from instantrt.targets import OPTIONS
from instantrt_bench.cases.arguments import CaseOptions
from instantrt_bench.cases.cases import Case, Settings, cases_of
from instantrt_bench.cases.manifest import Manifest, default_manifest, read_manifest
from instantrt_bench.reference.pipeline import Reference
from instantrt_bench.results.machine import system_threads
from instantrt_bench.results.systems import runtime_system
from instantrt_export.checkpoint import Checkpoint
from instantrt_export.parity import ComputedIn


@dataclass(frozen=True)
class Loaded:
    """What a run of cases needs, as the arguments name it."""

    bundle: Bundle
    checkpoint: Checkpoint
    manifest: Manifest
    cases: list[Case]
    threads: int
    target: str
    precision_hint: PrecisionHint | None
    options: dict[str, Any]

    @property
    def system(self) -> str:
        """The runtime's system id in results."""
        return runtime_system(self.target, self.precision_hint)

    @property
    def computed_in(self) -> ComputedIn:
        """What the target computes in."""
        return "bf16" if self.precision_hint == "bf16" else self.bundle.precision

    @property
    def target_options(self) -> TargetOptions:
        """How the target runs. Plans run on the GPU and take no thread count."""
        threads = self.threads if "threads" in OPTIONS[self.target] else None
        return TargetOptions(threads=threads, precision_hint=self.precision_hint)


def load_cases(asked: CaseOptions, seeds: Sequence[int], samplers: Sequence[str]) -> Loaded:
    """Open everything that arguments name, so that mistakes show before anything runs.

    Raises:
        InstantRTError: a mistake in the arguments or in what they name.
    """
    manifest = default_manifest() if asked.manifest is None else read_manifest(asked.manifest)
    settings = Settings(
        steps=asked.steps,
        guidance_scale=asked.guidance_scale,
        identity_strength=asked.identity_strength,
        adapter_strength=asked.adapter_strength,
        enhance_face_region=asked.enhance_face_region,
        size=asked.size,
    )
    cases = cases_of(manifest, seeds, samplers, settings)
    bundle = Bundle.open(asked.bundle)
    for case in cases:
        check_request(case.request, bundle)
    names = (
        "target",
        "precision_hint",
        "steps",
        "guidance_scale",
        "identity_strength",
        "adapter_strength",
        "enhance_face_region",
    )
    options = {name: getattr(asked, name) for name in names}
    options |= {"size": asked.size, "seeds": list(seeds), "samplers": list(samplers), "manifest": manifest.facts()}
    return Loaded(
        bundle,
        Checkpoint.open(asked.checkpoint),
        manifest,
        cases,
        system_threads(asked.threads),
        asked.target,
        asked.precision_hint,
        options,
    )


@contextmanager
def pipelines(loaded: Loaded) -> Iterator[tuple[InstantID, Reference]]:
    """The runtime on its target, and the reference."""
    reference = Reference.load(loaded.checkpoint, threads=loaded.threads)
    options = loaded.target_options
    with InstantID.load(
        loaded.bundle.folder, target=loaded.target, threads=options.threads, precision_hint=options.precision_hint
    ) as runtime:
        yield runtime, reference
