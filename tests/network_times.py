"""How long networks take on each CPU target: `python tests/network_times.py BUNDLE --threads 2`.

All targets execute a network in turn on the same random inputs, so what else the machine does meets them alike. The
networks are loaded as the runtime loads them: those of the loop for their sizes, the decoder for any.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from instantrt.bundle import Bundle
from instantrt.engine import Target, TargetOptions
from instantrt.targets import open_target
from instantrt_export.parity_inputs import random_inputs

SYSTEMS: dict[str, dict[str, Any]] = {"onnxruntime": {}, "openvino": {}, "openvino bf16": {"precision_hint": "bf16"}}
NETWORKS = ("identitynet", "unet", "vae_decoder")


def main() -> None:
    """Print a Markdown table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--pixels", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--samples", type=int, nargs="+", default=[1, 4])
    options = parser.parse_args()
    bundle = Bundle.open(options.bundle)
    print(f"| network | pixels | samples | {' | '.join(f'{name} ms' for name in SYSTEMS)} |")
    print(f"|---|---:|---:|{'---:|' * len(SYSTEMS)}", flush=True)
    with ExitStack() as owned:
        targets = {}
        for name, chosen in SYSTEMS.items():
            opened = open_target(name.partition(" ")[0], bundle, TargetOptions(threads=options.threads, **chosen))
            targets[name] = owned.enter_context(closing(opened))
        for pixels, samples, network in product(options.pixels, options.samples, NETWORKS):
            sizes = {"B": samples, "G": 2, "H": pixels, "W": pixels}
            times = [f"{ms:.1f}" for ms in times_ms(bundle, list(targets.values()), network, sizes, options.runs)]
            print(f"| {network} | {pixels} | {samples} | {' | '.join(times)} |", flush=True)


def times_ms(bundle: Bundle, targets: list[Target], network: str, sizes: dict[str, int], runs: int) -> list[float]:
    """The median time of each target's runs, after one that is not counted."""
    used = {symbol: sizes[symbol] for symbol in bundle.contracts[network].symbols}
    inputs = random_inputs(bundle.contracts[network], used, bundle.precision, np.random.default_rng())
    taken: list[list[float]] = [[] for _ in targets]
    with ExitStack() as owned:
        calls = [bound(owned, bundle, target, network, used, inputs) for target in targets]
        for _ in range(runs + 1):
            for call, of_target in zip(calls, taken, strict=True):
                start = time.perf_counter()
                call()
                of_target.append((time.perf_counter() - start) * 1e3)
    return [median(of_target[1:]) for of_target in taken]


def bound(
    owned: ExitStack, bundle: Bundle, target: Target, network: str, sizes: dict[str, int], inputs: dict[str, Any]
) -> Callable[[], None]:
    """One execution of the network on the target, with buffers that live as long as ``owned``."""
    contract = bundle.contracts[network]
    engine = owned.enter_context(closing(target.load(network, sizes if contract.stage == "denoise" else {})))
    for spec in (*contract.inputs, *contract.outputs):
        buffer = owned.enter_context(
            closing(target.device.allocate(spec.resolve(sizes), spec.numpy_dtype(bundle.precision)))
        )
        if spec.name in inputs:
            target.device.upload(np.asarray(inputs[spec.name], buffer.dtype, order="C"), buffer)
        engine.bind(spec.name, buffer)
    return lambda: engine.enqueue(target.device.stream)


if __name__ == "__main__":
    main()
