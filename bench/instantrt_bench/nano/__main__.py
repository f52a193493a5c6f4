"""``python -m instantrt_bench.nano BUNDLE``: what the trained nano checkpoint can do, measured through the runtime."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from instantrt import InstantID
from instantrt.atomic import replace_text
from instantrt.cli.arguments import parse_positive
from instantrt.cli.command import ExitStatus, ProgressDisplay, run_to_status
from instantrt.cli.outputs import check_folder, save_picture
from instantrt_bench.nano.report import evaluate
from instantrt_bench.nano.sheet import people_sheet, strengths_sheet
from instantrt_bench.results.machine import system_threads


def main() -> int:
    """Evaluate and write."""
    parser = argparse.ArgumentParser(prog="python -m instantrt_bench.nano", description=__doc__)
    parser.add_argument("bundle", type=Path, help="bundle of the trained nano checkpoint")
    parser.add_argument("--out", type=Path, default=Path("out/nano"), help="folder for nano.json and nano.png")
    parser.add_argument("--poses", type=int, default=10, help="per person and style (default: %(default)s)")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 30])
    parser.add_argument("--threads", type=parse_positive, help="default: all usable")
    options = parser.parse_args()
    return run_to_status("python -m instantrt_bench.nano", lambda: _report(options))


def _report(options: argparse.Namespace) -> ExitStatus:
    check_folder(options.out)
    threads = system_threads(options.threads)
    with InstantID.load(options.bundle, threads=threads) as runtime, ProgressDisplay() as display:
        findings = evaluate(runtime, options.poses, options.steps, display.task("pictures"))
    replace_text(options.out / "nano.json", json.dumps(findings.facts, indent=1) + "\n")
    save_picture(people_sheet(findings.seen[max(options.steps)]), options.out / "nano.png")
    save_picture(strengths_sheet(findings.by_strength), options.out / "strengths.png")
    headline = {key: value for key, value in findings.facts.items() if isinstance(value, int | float)}
    files = "\n".join(str(options.out / name) for name in ("nano.json", "nano.png", "strengths.png"))
    sys.stdout.write(f"{json.dumps(headline, indent=1)}\n{files}\n")
    return ExitStatus.DONE


if __name__ == "__main__":
    raise SystemExit(main())
