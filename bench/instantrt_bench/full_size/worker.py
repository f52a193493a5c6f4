"""`python -m instantrt_bench.full_size.worker`: one network exported in a process of its own."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from instantrt.bundle import TOKENIZERS, network_files, tokenizer_files
from instantrt_bench.full_size.checkpoint import random_checkpoint
from instantrt_bench.full_size.scales import SCALES, with_stock_vae
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
    parser.add_argument("--stock-vae", action="store_true", help="a VAE whose config says force_upcast, as SDXL's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fixed", action="store_true", help="one slot, two guidance_batch, nothing symbolic")
    args = parser.parse_args()
    scale = with_stock_vae(SCALES[args.scale]) if args.stock_vae else SCALES[args.scale]
    checkpoint = random_checkpoint(scale, args.out / "files", args.seed, args.network)
    shapes = ExportShapes(args.px, args.px, slots=1, guidance_batch=2) if args.fixed else ExportShapes(args.px, args.px)
    unfinished, folder = args.out / "unfinished" / args.network, args.out / "bundle"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed
    export_bundle(
        checkpoint,
        unfinished,
        shapes=shapes,
        precision=args.precision,
        only=[args.network],
        check_parity=False,
    )
    # The ONNX file last: where it is, all of the network is.
    tokenizers = [name for tokenizer in TOKENIZERS for name in tokenizer_files(tokenizer)]
    for name in (*tokenizers, *reversed(network_files(args.network))):
        if (unfinished / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (unfinished / name).replace(folder / name)
    shutil.rmtree(unfinished)


if __name__ == "__main__":
    main()
