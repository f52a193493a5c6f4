"""``python -m instantrt_bench.nano BUNDLE``: what the trained nano checkpoint can do, measured through the runtime."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from instantrt import InstantID, InstantRTError
from instantrt.cli.command import ExitStatus, ProgressDisplay
from instantrt_bench.nano.report import evaluate
from instantrt_bench.nano.sheet import people_sheet, strengths_sheet
from instantrt_bench.results.machine import usable_cpus


def main() -> int:
    """Evaluate and write."""
    parser = argparse.ArgumentParser(prog="python -m instantrt_bench.nano", description=__doc__)
    parser.add_argument("bundle", type=Path, help="bundle of the trained nano checkpoint")
    parser.add_argument("--out", type=Path, default=Path("out/nano"), help="folder for nano.json and nano.png")
    parser.add_argument("--poses", type=int, default=10, help="per person and style (default: %(default)s)")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 30])
    parser.add_argument("--threads", type=int, default=usable_cpus())
    options = parser.parse_args()
    try:
        with InstantID.load(options.bundle, threads=options.threads) as runtime, ProgressDisplay() as display:
            findings = evaluate(runtime, options.poses, options.steps, display.task("pictures"))
    except InstantRTError as error:
        sys.stderr.write(f"{error}\n")
        return ExitStatus.USER_ERROR
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "nano.json").write_text(json.dumps(findings.facts, indent=1) + "\n", encoding="utf-8")
    people_sheet(findings.seen[max(options.steps)]).save(options.out / "nano.png")
    strengths_sheet(findings.by_strength).save(options.out / "strengths.png")
    headline = {key: value for key, value in findings.facts.items() if isinstance(value, int | float)}
    files = "\n".join(str(options.out / name) for name in ("nano.json", "nano.png", "strengths.png"))
    sys.stdout.write(f"{json.dumps(headline, indent=1)}\n{files}\n")
    return ExitStatus.DONE


if __name__ == "__main__":
    raise SystemExit(main())
