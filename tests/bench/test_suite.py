"""`make bench`: what is run, what is merged, and the gate's sessions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from doubles.bench_results import RUNTIME, latency_file
from instantrt.cli import build_parser, main
from instantrt_bench import suite
from instantrt_bench.regression import run_gate as gate
from instantrt_bench.regression.history import read_history
from instantrt_bench.results import systems
from instantrt_bench.suite import Step, bench_figures

RATIO = {"estimate": 3.4, "low": 3.1, "high": 3.6, "confidence": 0.95, "samples": 20, "scenario": "a"}
SUMMARIES = {
    "latency": {"ratio_eager": {RUNTIME: {**RATIO, "geometric_mean": 3.0}}, "flags": []},
    "fidelity": {"worst_psnr_db": 86.5, "worst_ssim": 0.9999, "verdict": "pass", "cases_compared": 8},
    "identity": {
        "identity_delta": None,
        "identity_delta_interval": None,
        "verdict": "not judged",
        "identity_judge": "faceres",
        "judges": {"faceres": {"pairs": 0}},
        "cases": 8,
    },
}


def test_the_figures_that_matter_are_merged() -> None:
    found = {kind: replace(latency_file([[1.0]]), kind=kind, summary=s) for kind, s in SUMMARIES.items()}
    figures = bench_figures(found, [Step("latency", ("bench", "latency", "x"), 0, 61.23)])
    assert figures["latency_ratio_eager"] == 3.4
    assert figures["latency_ratio_eager_interval"] == [3.1, 3.6]
    assert figures["latency_ratio_eager_samples"] == 20
    assert (figures["worst_psnr_db"], figures["worst_ssim"], figures["fidelity_cases"]) == (86.5, 0.9999, 8)
    assert (figures["identity_delta"], figures["identity_delta_interval"]) == (None, None)
    assert (figures["identity_pairs"], figures["identity_cases"]) == (0, 8)
    assert figures["seconds"] == {"latency": 61.2}
    assert figures["commands"] == {"latency": "instantrt bench latency x"}


def test_what_did_not_run_is_none_and_not_left_out() -> None:
    figures = bench_figures({}, [])
    for key in ("latency_ratio_eager", "worst_psnr_db", "worst_ssim", "identity_delta", "identity_delta_interval"):
        assert figures[key] is None


class Commands:
    """Stands for `instantrt`: takes the arguments, writes what that benchmark would, gives its exit status."""

    def __init__(self, **statuses: int) -> None:
        self.ran: list[list[str]] = []
        self._statuses = statuses

    def __call__(self, arguments: Sequence[str]) -> int:
        build_parser().parse_args(arguments)  # the command line accepts them
        kind = arguments[1]
        self.ran.append(list(arguments))
        if kind in SUMMARIES and self._statuses.get(kind) != 1:
            threads = int(arguments[arguments.index("--threads") + 1]) if "--threads" in arguments else 2
            results = replace(latency_file([[1.0]]), kind=kind, summary=SUMMARIES[kind], threads=threads)
            results.write(Path(arguments[arguments.index("--out") + 1]))
        return self._statuses.get(kind, 0)

    @property
    def kinds(self) -> list[str]:
        return [arguments[1] for arguments in self.ran]


def run_suite(out: Path, monkeypatch: pytest.MonkeyPatch, *options: str, **statuses: int) -> tuple[int, Commands]:
    ran = Commands(**statuses)
    monkeypatch.setattr(suite, "_instantrt", ran)
    return suite.main(["bundle", "checkpoint", "--out", str(out), *options]), ran


@pytest.mark.parametrize("fidelity_status", [0, 3])
def test_all_benchmarks_run_even_if_one_is_not_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fidelity_status: int
) -> None:
    (tmp_path / "identity.json").write_text("of an earlier run")
    options = ("--manifest", "people.json", "--guidance-scale", "3")
    status, ran = run_suite(tmp_path, monkeypatch, *options, fidelity=fidelity_status)
    assert status == fidelity_status
    assert ran.kinds == ["latency", "fidelity", "identity", "report"]
    assert ["people.json" in arguments for arguments in ran.ran] == [False, True, True, False]
    assert {str(tmp_path / f"{kind}.json") for kind in SUMMARIES} <= set(ran.ran[-1])
    assert json.loads((tmp_path / "bench.json").read_text())["exit_status"]["fidelity"] == fidelity_status
    assert not (tmp_path / "bench-full.json").exists()
    history = ran.ran[-1][ran.ran[-1].index("--history") + 1]
    assert sorted(kept.results.kind for kept in read_history(Path(history))) == sorted(SUMMARIES)


def test_the_whole_matrix_is_every_installed_cpu_system_on_all_threads_and_on_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systems, "installed_version", lambda name: None)
    status, ran = run_suite(tmp_path, monkeypatch, "--full", "--threads", "2")
    assert (status, ran.kinds) == (0, ["latency", "latency", "fidelity", "identity", "report"])
    asked = [build_parser().parse_args(arguments) for arguments in ran.ran[:2]]
    assert [(one.threads, one.out.name) for one in asked] == [(2, "latency.json"), (1, "latency-1-thread.json")]
    eager = ["runtime-onnxruntime", "reference-eager", "reference-eager-bf16"]
    assert [set(one.systems) for one in asked] == [
        {*eager, "reference-compiled", "reference-compiled-bf16"},
        set(eager),
    ]
    kept = json.loads((tmp_path / "bench-full.json").read_text())
    assert list(kept["latency"]) == ["threads=2", "threads=1"]
    assert kept["exit_status"] == dict.fromkeys(("latency", "latency-1-thread", "fidelity", "identity"), 0)
    assert "## Latency, threads=1" in (tmp_path / "bench-full.md").read_text()


def test_the_matrix_on_one_thread_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_suite(tmp_path, monkeypatch, "--full", "--threads", "1")[1].kinds[:2] == ["latency", "fidelity"]


def test_an_interrupt_ends_it_and_what_is_finished_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, ran = run_suite(tmp_path, monkeypatch, latency=3, fidelity=130)
    assert status == 130
    assert ran.kinds == ["latency", "fidelity", "report"]
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert (figures["latency_ratio_eager"], figures["worst_psnr_db"]) == (3.4, 86.5)
    assert figures["identity_verdict"] is None


def test_a_ctrl_c_waits_for_the_benchmark_to_write_what_it_has(tmp_path: Path) -> None:
    """Both get the signal, as from a terminal: the benchmark takes a second longer to end than this process."""
    child = tmp_path / "instantrt" / "cli.py"
    child.parent.mkdir()
    (child.parent / "__init__.py").touch()
    wait = "while True: time.sleep(0.1)"
    child.write_text(
        "import pathlib, sys, time\n"
        f"pathlib.Path({str(tmp_path / 'up')!r}).touch()\n"
        f"try:\n    {wait}\n"
        "except KeyboardInterrupt:\n    time.sleep(1); print('written', flush=True); sys.exit(130)\n"
    )
    code = "import os; from instantrt_bench import suite; os.chdir(os.environ['AT']); print(suite._instantrt(['x']))"
    environment = {**os.environ, "AT": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        while not (tmp_path / "up").exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.2)
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=60)[0].split() == ["written", "130"]


def test_nothing_measured_is_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, ran = run_suite(tmp_path / "new", monkeypatch, latency=1, fidelity=1, identity=1)
    assert (status, ran.kinds) == (1, ["latency", "fidelity", "identity"])
    assert json.loads((tmp_path / "new" / "bench.json").read_text())["latency_ratio_eager"] is None


def gate_command(tmp_path: Path, *options: str) -> list[str]:
    """With interpreters that are there and cannot be started, and bundles that look like some."""
    sides = []
    for side, name in (("before", "old"), ("after", "new")):
        python, bundle = tmp_path / name, tmp_path / f"bundle-{name}"
        python.touch(mode=0o755)
        bundle.mkdir(exist_ok=True)
        (bundle / "bundle.json").touch()
        sides += [f"--{side}-python", str(python), f"--{side}-bundle", str(bundle)]
    return ["bench", "gate", *sides, "--out", str(tmp_path / "gate"), *options]


@pytest.mark.parametrize(("factor", "status"), [(1.0, 0), (1.15, 3)])
def test_the_gate_measures_in_turn_and_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float, status: int
) -> None:
    order: list[str] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        """Keeps the sessions of each side at minutes of their order."""
        side, out = Path(command[0]).name, Path(command[command.index("--out") + 1])
        build_parser().parse_args(command[3:])
        assert {"--append", "--threads"} <= set(command)
        ms = 100 * (factor if side == "new" else 1)
        order.append(side)
        mine = [minute for minute, name in enumerate(order) if name == side]
        times = [[ms * (1 + 0.002 * ((i + m) % 3)) for i in range(12)] for m in mine]
        results = latency_file(times)
        sessions = [{"started": f"2026-01-01T00:{minute:02}"} for minute in mine]
        results.scenarios[0].comparison["sessions"] = sessions
        results.write(out)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    assert main(gate_command(tmp_path, "--sessions", "4")) == status
    assert order == ["old", "new", "new", "old"] * 2


def test_a_session_that_fails_ends_the_gate_with_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = SimpleNamespace(returncode=1, stderr="no such bundle", stdout="")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: failed)
    assert main(gate_command(tmp_path)) == 1
    assert "no such bundle" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(gate_command(tmp_path)) == 1
    assert "cannot be started" in capsys.readouterr().err
    assert main(gate_command(tmp_path, "--sessions", "0")) == 1


def test_a_sessions_command_is_one_that_the_command_line_has(tmp_path: Path) -> None:
    args = build_parser().parse_args(gate_command(tmp_path))
    options = args.selected.parsed(args)
    side = gate.Side("python", Path("bundle"), tmp_path / "a.json")
    parsed = build_parser().parse_args(gate.session_command(side, options)[3:])
    assert (parsed.append, parsed.min_samples, parsed.max_samples, parsed.threads) == (True, 12, 12, 1)
