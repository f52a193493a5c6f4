"""`python -m instantrt_bench.fidelity.input_ranges BUNDLE`: how large the networks' inputs are in real requests.

The figures go into ``RECORDED`` of :mod:`instantrt_export.parity_inputs`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from instantrt import Bundle, InstantID
from instantrt.cli.command import ExitStatus, ProgressDisplay, run_to_status
from instantrt.contracts import NetworkContract, loop_buffer
from instantrt.device import Buffer, Stream
from instantrt.engine import Engine, Target, TargetOptions
from instantrt.request import SAMPLER_NAMES
from instantrt.residency import Residency
from instantrt.targets import open_target
from instantrt_bench.cases.cases import Settings, cases_of
from instantrt_bench.cases.manifest import default_manifest
from instantrt_bench.results.machine import system_threads
from instantrt_bench.results.tables import aligned


@dataclass
class Spread:
    """Of all numbers that were seen: how many, the sum of their squares, and the largest absolute value."""

    count: int = 0
    squares: float = 0.0
    largest: float = 0.0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Take more numbers."""
        wide = values.astype(np.float64)
        self.count += values.size
        self.squares += float(np.square(wide).sum())
        self.largest = max(self.largest, float(np.abs(wide).max(initial=0.0)))

    @property
    def rms(self) -> float:
        """Their root mean square."""
        return float((self.squares / self.count) ** 0.5)


class RecordingTarget:
    """A target on the CPU that looks at the inputs of every execution.

    Attributes:
        spreads: by network and input; for the loop's own inputs the name of their buffer.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self.name, self.device, self.warnings = target.name, target.device, target.warnings
        self.residency: Residency = target.residency
        self.capturable = target.capturable
        self.spreads: dict[tuple[str, str], Spread] = {}

    def accepts(self, network: str, symbols: Mapping[str, int]) -> bool:
        """As the target."""
        return self._target.accepts(network, symbols)

    def load(self, network: str, symbols: Mapping[str, int]) -> Engine:
        """The target's engine, watched."""
        return RecordingEngine(self._target.load(network, symbols), self.spreads)

    def close(self) -> None:
        """As the target."""
        self._target.close()


class RecordingEngine:
    """An engine whose inputs are looked at before each execution."""

    def __init__(self, engine: Engine, spreads: dict[tuple[str, str], Spread]) -> None:
        self.contract: NetworkContract = engine.contract
        self.busy_ns = 0
        self._engine, self._spreads = engine, spreads
        self._inputs: dict[str, Buffer] = {}

    def bind(self, name: str, buffer: Buffer) -> None:
        """As the engine."""
        if any(spec.name == name for spec in self.contract.inputs):
            self._inputs[name] = buffer
        self._engine.bind(name, buffer)

    def warm_up(self, stream: Stream, *, capture: bool) -> None:
        """As the engine."""
        self._engine.warm_up(stream, capture=capture)

    def enqueue(self, stream: Stream) -> None:
        """Look, then execute."""
        stream.submit(self._look)
        self._engine.enqueue(stream)

    def close(self) -> None:
        """As the engine."""
        self._engine.close()

    def _look(self) -> None:
        for name, buffer in self._inputs.items():
            array: Any = getattr(buffer, "array")  # noqa: B009 - of host buffers, the only ones here
            if np.issubdtype(array.dtype, np.floating):
                key = (self.contract.name, loop_buffer(self.contract.name, name))
                self._spreads.setdefault(key, Spread()).add(array)


def record(bundle: Path, threads: int, steps: int) -> dict[tuple[str, str], Spread]:
    """Two portraits with every prompt of the default manifest and every sampler, one seed each."""
    opened = Bundle.open(bundle)
    cases = cases_of(default_manifest(), [1], list(SAMPLER_NAMES), Settings(steps=steps))
    target = RecordingTarget(open_target("onnxruntime", opened, TargetOptions(threads=threads)))
    with InstantID(opened, target, eager=True) as pipeline, ProgressDisplay() as display:
        for done, case in enumerate(cases):
            display.show("requests", done, len(cases))
            pipeline.run(case.request)
    return target.spreads


def main() -> int:
    """Record and print."""
    parser = argparse.ArgumentParser(prog="python -m instantrt_bench.fidelity.input_ranges", description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder that `instantrt export` made")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()

    def run() -> int:
        spreads = record(options.bundle, system_threads(options.threads), options.steps)
        rows = [(network, name, f"{s.rms:.3g}", f"{s.largest:.3g}") for (network, name), s in spreads.items()]
        sys.stdout.write(aligned([("network", "input", "rms", "largest"), *rows]) + "\n")
        return ExitStatus.DONE

    return run_to_status("input_ranges", run)


if __name__ == "__main__":
    raise SystemExit(main())
