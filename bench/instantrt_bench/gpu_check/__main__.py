"""`python -m instantrt_bench.gpu_check`: everything that only a real GPU can tell, in bounded time.

Uses what is installed and says what it skips. Each section runs in a process of its own with a limit: a lost CUDA
context or an endless wait costs no other one. This process imports nothing that a source tree could lack.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from instantrt.atomic import replace_text
from instantrt.cli.command import run_to_status
from instantrt.cli.outputs import check_folder
from instantrt_bench.gpu_check.options import Options
from instantrt_bench.gpu_check.report import FAILED, PASSED, SKIPPED, TIMED_OUT, Report, as_table, write_json

RESULTS, TABLE = "gpu-check.json", "gpu-check.txt"
LOOK_S = 0.2  # between two looks at a running section
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Section:
    """One section.

    Args:
        name: in results and table.
        function: ``module.function`` of this package, called with a report and options.
        share: of the whole time that it may take at most.
        least_s: with less time left it is not begun.
        needs_bundle: whether it uses the nano bundle.
    """

    name: str
    function: str
    share: float
    least_s: float
    needs_bundle: bool = False


# In order of value.
SECTIONS = (
    Section("environment", "environment.run", 0.1, 10),
    Section("driver", "driver.run", 0.15, 15),
    Section("nano", "nano.run", 0.4, 30, needs_bundle=True),
    Section("full_size", "full_size.run", 0.5, 40),
    Section("memcheck", "checks.run_memcheck", 0.2, 15, needs_bundle=True),
    Section("pytest", "checks.run_pytest", 0.4, 20),
)


def main(argv: list[str] | None = None) -> int:
    """The check, or one section of it in this process; 1 if something failed."""
    names = [section.name for section in SECTIONS]
    parser = argparse.ArgumentParser(prog="python -m instantrt_bench.gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/gpu"), help="folder of the results (%(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="for everything (default: %(default)g)")
    parser.add_argument("--wheels", type=Path, metavar="FOLDER", help="wheels of what is not installed")
    parser.add_argument("--bundle", type=Path, help="the exported nano bundle; exported meanwhile if not given")
    parser.add_argument("--only", nargs="+", choices=names, metavar="SECTION", help=f"of {', '.join(names)}")
    parser.add_argument("--dry-run", action="store_true", help="without a GPU: small sizes, torch on the CPU")
    parser.add_argument("--section", choices=names, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    return run_to_status(parser.prog, lambda: _run(args))


def _run(args: argparse.Namespace) -> int:
    check_folder(args.out)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.section:
        return one_section(args)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        return Check(args, Path(scratch)).run()


def one_section(args: argparse.Namespace) -> int:
    """Run a section here; its report is ``OUT/NAME.json``."""
    section = next(s for s in SECTIONS if s.name == args.section)
    report = Report(args.out / f"{section.name}.json", monotonic() + args.minutes * 60)
    tree = ROOT if (ROOT / "pyproject.toml").is_file() else None
    report.save()
    try:
        module, _, function = section.function.partition(".")
        run = getattr(importlib.import_module(f"{__package__}.{module}"), function)
        run(report, Options(args.dry_run, tree, args.out, args.bundle))
    except Exception:  # an import, or what no step surrounds
        report.errors["section"] = traceback.format_exc()
    report.save()
    return int(not report.passed)


class Check:
    """All sections, one after the other, and the nano bundle's export beside them."""

    def __init__(self, args: argparse.Namespace, scratch: Path) -> None:
        self._args, self._scratch = args, scratch
        self._end = monotonic() + args.minutes * 60
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._sections: dict[str, dict[str, Any]] = {}
        self._environment = dict(os.environ)
        if args.dry_run:
            self._environment["OMP_NUM_THREADS"] = "1"  # small sizes: more threads only wait for one another

    def run(self) -> int:
        """Run them, print the table; 1 if one failed."""
        if self._args.wheels is not None:
            self._unpack(self._args.wheels)
        chosen = [section for section in SECTIONS if section.name in (self._args.only or section.name)]
        export = None
        if self._args.bundle is None and any(section.needs_bundle for section in chosen):
            export = self._start_export()
        try:
            for section in chosen:
                self._sections[section.name] = self._run(section)
                self._save()
        finally:
            if export is not None:
                _end(export)
            self._save()
            table = as_table(self._sections)
            replace_text(self._args.out / TABLE, table)
            sys.stdout.write(table)
            sys.stdout.flush()
        return int(any(section["status"] in (FAILED, TIMED_OUT) for section in self._sections.values()))

    def _unpack(self, wheels: Path) -> None:
        """Install wheels into a folder of this run; it comes first where Python looks."""
        site = self._scratch / "site"
        found = sorted(map(str, wheels.glob("*.whl")))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--target", str(site), *found], check=True)  # noqa: S603 - our own command
        paths = [str(site), self._environment.get("PYTHONPATH", "")]
        self._environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))

    def _start_export(self) -> subprocess.Popen[bytes]:
        """It takes a minute of one CPU: the first sections go on meanwhile. It needs no GPU and must not take one."""
        code = "import sys; from pathlib import Path; from instantrt_nano.bundle import cached_bundle; "
        code += "cached_bundle(Path(sys.argv[1]))"
        command = [sys.executable, "-c", code, str(self._scratch / "cache")]
        environment = self._environment | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}
        with (self._args.out / "export.log").open("wb") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, env=environment, process_group=0)  # noqa: S603

    def _run(self, section: Section) -> dict[str, Any]:
        left_s = self._end - monotonic()
        if left_s < section.least_s:
            return {"status": SKIPPED, "skipped": {section.name: f"{left_s:.0f} s left, needs {section.least_s:.0f}"}}
        seconds = left_s if self._args.dry_run else min(section.share * self._args.minutes * 60, left_s)
        sys.stderr.write(f"== {section.name}, at most {seconds:.0f} s\n")
        folder, start = self._scratch / section.name, monotonic()
        child = subprocess.Popen(self._command(section, folder, seconds), env=self._environment, process_group=0)  # noqa: S603
        path, seen = folder / f"{section.name}.json", b""
        while child.poll() is None and monotonic() < start + seconds:
            sleep(LOOK_S)
            if path.is_file() and path.read_bytes() != seen:  # kept at once: this process may be ended too
                seen = path.read_bytes()
                self._sections[section.name] = json.loads(seen) | {"status": "running"}
                self._save()
        code = child.poll()
        _end(child)
        found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"status": FAILED}
        if code is None:
            found["status"] = TIMED_OUT
        elif code and found["status"] == PASSED:  # it died outside Python
            found |= {"status": FAILED, "errors": {"process": f"exited with {code}"}}
        return found | {"seconds": round(monotonic() - start, 1)}

    def _command(self, section: Section, folder: Path, seconds: float) -> list[str]:
        command = [sys.executable, "-m", __package__ or "", "--section", section.name, "--out", str(folder)]
        command += ["--minutes", f"{seconds / 60}"] + ["--dry-run"] * self._args.dry_run
        return command + (["--bundle", str(self._args.bundle)] if self._args.bundle is not None else [])

    def _save(self) -> None:
        data = {"started": self._started, "minutes": self._args.minutes, "dry_run": self._args.dry_run}
        write_json(self._args.out / RESULTS, data | {"sections": self._sections})


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that this one started and what that one started, which may outlive it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
