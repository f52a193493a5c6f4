"""`python -m instantrt_bench.full_size.worker`: one network exported in a process of its own."""

from __future__ import annotations

import argparse
from pathlib import Path

from instantrt_bench.full_size.checkpoint import random_checkpoint
from instantrt_bench.full_size.scales import SCALES
from instantrt_export.export import export_bundle
from instantrt_export.shapes import ExportShapes


def main() -> None:
    """Exports the network that the arguments name."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path, help="folder with files/ and bundle/")
    parser.add_argument("network")
    parser.add_argument("--scale", choices=SCALES, required=True)
    parser.add_argument("--px", type=int, required=True, help="side of the square picture")
    parser.add_argument("--precision", choices=("fp16", "fp32"), default="fp16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fixed", action="store_true", help="one slot, two guidance_batch, nothing symbolic")
    args = parser.parse_args()
    checkpoint = random_checkpoint(SCALES[args.scale], args.out / "files", args.seed, args.network)
    shapes = ExportShapes(args.px, args.px, slots=1, guidance_batch=2) if args.fixed else ExportShapes(args.px, args.px)
    export_bundle(
        checkpoint,
        args.out / "bundle",
        shapes=shapes,
        precision=args.precision,
        only=[args.network],
        check_parity=False,
    )


if __name__ == "__main__":
    main()
