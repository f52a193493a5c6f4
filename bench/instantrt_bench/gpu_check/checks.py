"""Sections ``pytest`` and ``memcheck``: the project's own GPU tests, and 300 calls below a memory checker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from instantrt_bench.gpu_check.options import Options
from instantrt_bench.gpu_check.report import Report, SkippedError

CHECKER = "compute-sanitizer"
SUMMARY = re.compile(r"ERROR SUMMARY: (\d+) error")
OUTPUT = 8000  # characters that are kept
DEVICE_TESTS = "tests/runtime/test_cuda_device.py"


def run_pytest(report: Report, options: Options) -> None:
    """The tests of the CUDA device, then all others that are marked ``gpu``."""
    for name, files in (("tests of the device", [DEVICE_TESTS]), ("all gpu tests", ["tests"])):
        with report.step(name):
            if options.tree is None or not (options.tree / DEVICE_TESTS).is_file():
                raise SkippedError("the tests are in the source tree, which this is not")
            missing = [package for package in ("pytest", "filelock", "hypothesis") if find_spec(package) is None]
            if missing:
                raise SkippedError(f"{', '.join(missing)} not installed")
            if options.dry_run:
                raise SkippedError("a dry run")
            _pytest(report, name, options.tree, files)


def run_memcheck(report: Report, options: Options) -> None:
    """Nano's loop, 300 calls without a wait, in a process below the checker; in a dry run here, without one."""
    with report.step("300 calls of nano"):
        if options.dry_run:
            report.check("checks that failed", int(not calls_without_waiting(options.nano_bundle(), dry_run=True)), 0)
            return
        if shutil.which(CHECKER) is None:
            raise SkippedError(f"{CHECKER} is not installed")
        command = [sys.executable, "-m", "instantrt_bench.gpu_check.checks", str(options.nano_bundle())]
        done = _run([CHECKER, "--tool", "memcheck", "--print-limit", "20", *command], None, report.left_s - 2)
        output = done.stdout + done.stderr
        report.detail(output=output[-OUTPUT:])
        report.check("exit code of the program", done.returncode, 0)
        summary = SUMMARY.search(output)
        report.check("errors found", int(summary[1]) if summary else float("nan"), 0)


def calls_without_waiting(bundle: Path, *, dry_run: bool) -> bool:
    """What runs below the checker; False if a check failed."""
    from time import monotonic

    from instantrt.bundle import Bundle
    from instantrt_bench.gpu_check.nano import nano_loop, without_waiting
    from instantrt_bench.gpu_check.torch_target import checkpoint_modules
    from instantrt_export.checkpoint import Checkpoint
    from instantrt_nano.maker import TRAINED

    options = Options(dry_run, None, bundle.parent, bundle)
    report = Report(Path(os.devnull), monotonic() + 3600)
    report.save = lambda: None  # type: ignore[method-assign]
    checkpoint = Checkpoint.open(str(TRAINED))
    module_of = checkpoint_modules(checkpoint, options.dtype, options.torch_device)
    with nano_loop(options, checkpoint, Bundle.open(bundle), module_of, eager=False) as loop:
        without_waiting(report, options, loop)
    return report.passed


def _pytest(report: Report, name: str, tree: Path, files: list[str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files]
    done = _run(command, tree, report.left_s - 2)
    output = (done.stdout + done.stderr).strip()
    report.add(**{name: output.splitlines()[-1] if output else "no output"})
    report.detail(**{f"output of {name}": output[-OUTPUT:]})
    report.check(f"pytest's exit code, {name}", done.returncode, 0)


def _run(command: list[str], folder: Path | None, timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own commands
        command, cwd=folder, capture_output=True, text=True, timeout=max(timeout_s, 1), check=False
    )


if __name__ == "__main__":
    sys.exit(not calls_without_waiting(Path(sys.argv[1]), dry_run=False))
